"""`coinmesh user`, `coinmesh token` and `coinmesh-vault user ensure` on the real mesh."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coinmesh_access import users
from coinmesh_access.accounting import operator
from coinmesh_access.login import USERS
from coinmesh_audit.log import ALLOWED, DENIED
from coinmesh_cli import audit
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_local import local_user
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh, eventually

pytestmark = pytest.mark.component
Command = Callable[..., subprocess.CompletedProcess[str]]
NAME = "cli-ann"
SETTINGS = ("COINMESH_KAFKA_BOOTSTRAP_SERVERS", "COINMESH_SCHEMA_REGISTRY_URL", "COINMESH_TLS_DIR")


@pytest.fixture(scope="module")
def home(mesh: TestMesh) -> TestMesh:
    """The mesh as far as the public listener."""
    mesh.require("envoy")
    return mesh


@pytest.fixture
def command(home: TestMesh, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command as the machine's operator."""
    monkeypatch.setenv("COINMESH_HOME", str(home.home.root))

    def run(
        program: str, *words: str, stdin: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / program, *words],
            input=stdin,
            env=os.environ | more,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def recorded() -> set[tuple[Any, Any, str, str]]:
    """Action, outcome, actor and object of what is on record."""
    return {(e.action, e.outcome, e.actor, e.object) for _, e in audit.events()}


def test_users_and_logins_are_on_record_with_who_did_it(command: Command) -> None:
    key = command("coinmesh", "user", "add", NAME, "--role", "editor").stdout
    token = command("coinmesh", "token", "--stdin", stdin=key).stdout.strip()
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["name"], claims["roles"]) == (NAME, ["editor"])
    assert command("coinmesh", "token").stdout.count(".") == 2
    assert command("coinmesh", "user", "remove", NAME).returncode == 0
    refused = command("coinmesh", "token", "--stdin", stdin=key)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "isn't valid" in refused.stderr
    wanted = {
        (pb.AUDIT_ACTION_USER_PUT, ALLOWED, operator(), f"user:{NAME}"),
        (pb.AUDIT_ACTION_USER_PUT, ALLOWED, operator(), "user:local"),  # by `coinmesh up`
        (pb.AUDIT_ACTION_LOGIN, ALLOWED, f"user:{NAME}", "session"),
        (pb.AUDIT_ACTION_LOGIN, ALLOWED, "user:local", "session"),
        (pb.AUDIT_ACTION_USER_REMOVE, ALLOWED, operator(), f"user:{NAME}"),
        (pb.AUDIT_ACTION_LOGIN, DENIED, f"user:{NAME}", "session"),
    }
    eventually(lambda: wanted <= recorded(), "all of it is on record", timeout=30)


def test_without_kafka_users_stay_as_they_are(
    home: TestMesh, command: Command, tmp_path: Path
) -> None:
    place = local_user.vault(home.mesh)
    at = ("--address", place.address, "--ca", str(place.ca), "--secrets", str(home.home.secrets))
    name = "vault-bob"
    key = tmp_path / "users" / name / "key"
    ensure = ("coinmesh-vault", "user", "ensure", name, "--key", str(key), *at)
    refused = command(*ensure)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "COINMESH_KAFKA_BOOTSTRAP_SERVERS is not set" in refused.stderr
    admin = place.login(home.home.secrets, USERS)
    assert name not in {user.name for user in users.listed(admin)}
    settings = {key: home.settings_of("cli")[key] for key in SETTINGS}
    made = command(*ensure, **settings)
    assert key.read_text().startswith(f"cm_{name}_"), made.stderr
    assert name in {user.name for user in users.listed(admin)}
    assert command("coinmesh", "user", "remove", name).returncode == 0
    put = (pb.AUDIT_ACTION_USER_PUT, ALLOWED, operator(), f"user:{name}")
    assert {put, (pb.AUDIT_ACTION_USER_REMOVE, *put[1:])} <= recorded()
