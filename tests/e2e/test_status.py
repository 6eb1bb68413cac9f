"""`coinmesh status` and `coinmesh doctor` on the running mesh, as an operator calls them."""

import json
import os
import subprocess
from typing import Any

import pytest

from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh, eventually
from coinmesh_manifests.discovery import discover

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mesh(last_run: Any) -> TestMesh:
    """The whole mesh with all its components, after it has worked."""
    last_run.mesh.require(*last_run.mesh.mesh.definitions)
    return last_run.mesh


def asked(mesh: TestMesh, command: str) -> tuple[int, Any]:
    """Exit status and answer of `coinmesh COMMAND --json`."""
    done = subprocess.run(
        [BIN / "coinmesh", command, "--json"],
        env=os.environ | {"COINMESH_HOME": str(mesh.home.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def until(mesh: TestMesh, verdict: str) -> tuple[int, Any]:
    """The answer of `coinmesh status` once it gives this verdict."""
    last: tuple[int, Any] = (-1, {})

    def given() -> bool:
        nonlocal last
        last = asked(mesh, "status")
        return last[1]["health"] == verdict

    try:
        eventually(given, f"it is {verdict}", timeout=90)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last[1]['reasons']}") from None
    return last


def test_all_is_well_and_nothing_is_left_unsaid(mesh: TestMesh) -> None:
    status, told = until(mesh, "healthy")
    assert (status, told["reasons"], told["missing"]) == (0, [], [])
    for part in ("components", "streams", "lag", "freshness", "certificates", "disk"):
        assert told[part], part
    assert told["gaps_open"] == 0
    assert told["dead_letters"] is not None
    services = {row["name"]: row for row in told["components"] if row["kind"] == "service"}
    assert services.keys() >= {"query-gateway-1", "query-gateway-2", "audit-anchor", "kafka"}
    assert [name for name, row in services.items() if not row["version"]] == []
    behind = {(row["service"], row["query"]) for row in told["lag"]}
    assert behind >= {
        ("query-gateway-1", None),
        ("query-gateway-2", None),
        ("spark-stream", "bars"),
        ("spark-stream", "archive-market"),
    }
    fresh = {(row["service"], row["what"]) for row in told["freshness"]}
    for gateway in ("query-gateway-1", "query-gateway-2"):
        assert (gateway, "market.trades.v1") in fresh
    collectors = {name for name, manifest in discover().items() if manifest.kind == "collector"}
    assert {row["service"] for row in told["streams"]} == collectors


def test_the_doctor_finds_nothing_that_must_be_mended(mesh: TestMesh) -> None:
    until(mesh, "healthy")
    status, told = asked(mesh, "doctor")
    assert told.keys() == {"machine", "mesh"}
    bad = [row for rows in told.values() for row in rows if row["level"] == "bad"]
    assert bad == []
    assert status in (0, 1)
    ok = {row["area"] for row in told["mesh"] if row["level"] == "ok"}
    assert ok >= {"components", "lag", "freshness", "gaps", "certificates", "topics", "schemas"}
