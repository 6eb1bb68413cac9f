"""What the commands say: lines of the schema in a component's log, text to people."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from coinmesh_access.testing import BIN, free_port
from meshkit import log_lines, logs

pytestmark = pytest.mark.slow

SCHEMA = Draft202012Validator(log_lines.schema())


def run(service: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as the supervisor runs it for a component, or as a person does (no service)."""
    environment = {**os.environ, logs.SERVICE_VARIABLE: service}
    return subprocess.run(
        [BIN / program, *words], env=environment, capture_output=True, text=True, check=False
    )


def prepare(root: Path, service: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(service, "coinmesh-vault", "prepare", "--run", str(root / "run")),
        *("--data", str(root / "data"), "--audit", str(root / "audit")),
        *(
            "--secrets",
            str(root / "secrets"),
            "--listen",
            "127.0.0.1:1",
            "--cluster",
            "127.0.0.1:2",
        ),
    )


def unreachable(root: Path) -> list[str]:
    """Options that name a Vault that isn't there, and our login to it."""
    assert prepare(root, "").returncode == 0
    return [
        *("--address", f"https://127.0.0.1:{free_port()}", "--secrets", str(root / "secrets")),
        *("--ca", str(root / "secrets" / "openbao" / "ca.crt")),
    ]


def checked(done: subprocess.CompletedProcess[str], service: str) -> list[str]:
    """The messages of a component's log; every line is of the schema."""
    lines = [json.loads(text) for text in (done.stdout + done.stderr).splitlines()]
    for line in lines:
        SCHEMA.validate(line)
        assert line["service"] == service
    return [line["message"] for line in lines]


def test_what_a_command_made(tmp_path: Path) -> None:
    made = str(tmp_path / "run" / "openbao.hcl")
    assert prepare(tmp_path, "").stdout == f"{made}\n"
    assert checked(prepare(tmp_path, "openbao"), "openbao") == [made]


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("vault-setup", ["coinmesh-vault", "setup"]),
        ("redis", ["coinmesh-access", "redis", "--out", "users.acl"]),
        ("certs", ["coinmesh-certs", "agent", "--once", "--service", "envoy", "--dir", "tls"]),
    ],
)
def test_why_a_command_failed(tmp_path: Path, service: str, words: list[str]) -> None:
    place = unreachable(tmp_path)
    (tmp_path / "secrets" / "deploy").symlink_to("vault-setup")
    (tmp_path / "secrets" / "envoy").symlink_to("vault-setup")
    done = run(service, *words, *place)
    assert done.returncode == 1
    assert any("doesn't answer" in message for message in checked(done, service))


def test_people_get_the_error_as_text(tmp_path: Path) -> None:
    done = run("", "coinmesh-vault", "setup", *unreachable(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_commands_result_is_the_same_everywhere() -> None:
    alone, inside = (run(service, "coinmesh-access", "show", "redis") for service in ("", "redis"))
    assert alone.stdout == inside.stdout != ""


KEEPING = {
    "redis": ["redis", "--out", "{kept}"],
    "s3": ["s3", "--out", "{kept}"],
    "s3-key": ["s3-key", "--into", "{into}", "--kept", "{kept}"],
}


@pytest.mark.parametrize("words", KEEPING.values(), ids=KEEPING)
def test_a_store_starts_without_vault_by_what_it_gave_before(
    words: list[str], tmp_path: Path
) -> None:
    kept, into = tmp_path / "kept", tmp_path / "security.toml"
    into.write_text("[jwt]\n")
    options = unreachable(tmp_path)
    for name in ("deploy", "seaweedfs"):
        login = tmp_path / "secrets" / name
        login.mkdir()
        for file in ("role-id", "secret-id"):
            (login / file).write_text("unknown")
    command = [word.format(kept=kept, into=into) for word in words]

    failed = run("redis", "coinmesh-access", *command, *options)
    assert failed.returncode == 1
    assert "doesn't answer" in " ".join(checked(failed, "redis"))
    assert into.read_text() == "[jwt]\n"

    kept.write_text("before")
    done = run("redis", "coinmesh-access", *command, *options)
    assert done.returncode == 0
    assert f"{kept} stays as it is" in " ".join(checked(done, "redis"))
    assert kept.read_text() == "before"
    added = '\n[s3.sse]\nkek = "before"\n' if "s3-key" in words else ""
    assert into.read_text() == f"[jwt]\n{added}"
