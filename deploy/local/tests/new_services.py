"""Run by test_new_service.py in a copy of the tree: services are made while a mesh runs."""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from coinmesh_access import users
from coinmesh_access.login import USERS
from coinmesh_local import local_user
from coinmesh_local.mesh import Options
from coinmesh_local.paths import BIN, CHECKOUT
from coinmesh_local.testing import TestMesh, Workspace, eventually
from meshkit.errors import error_info

SERVICE, COLLECTOR, JOB, WEB = "price-alerts", "onchain-indexer", "daily-check", "notebook"
MADE = {SERVICE: "service", COLLECTOR: "collector", JOB: "job"}
PACKAGES = (f"services/{SERVICE}", f"services/{COLLECTOR}", f"jobs/{JOB}")
#: Compiled when it is installed, which takes minutes; the copy has it already.
COMPILED = "services/collector-binance"
CHECKS = {
    "ruff": ("ruff", "check", *PACKAGES),
    "format": ("ruff", "format", "--check", *PACKAGES),
    "pyright": ("pyright", "--warnings", *(f"{package}/src" for package in PACKAGES)),
    "buf": ("buf", "lint"),
    "buf-format": ("buf", "format", "--diff", "--exit-code", "proto"),
    "tests": (
        *("python", "-m", "pytest", "-q", "-m", "not component and not slow and not e2e"),
        *("tests/repository", *PACKAGES),
    ),
}
RPCS = {
    SERVICE: "/coinmesh.price_alerts.v1.PriceAlertsService/GetPriceAlertsStatus",
    COLLECTOR: "/coinmesh.collector.v1.CollectorService/GetStatus",
}
PATHS = {
    SERVICE: "/v1/priceAlerts/status",
    COLLECTOR: f"/v1/collectors/{COLLECTOR}/status",
}
WEB_MANIFEST = """
kind = "web"
description = "A third party's HTTP server"

[run]
command = ["${python}", "${checkout}/services/notebook/server.py", "${run}/http.sock"]
ready = "/notebook/health"
"""
WEB_SERVER = """
import json, socketserver, sys
from http.server import BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    def answer(self):
        told = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def address_string(self):
        return "socket"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(sys.argv[1], Handler).serve_forever()
"""
both = pytest.mark.parametrize("name", [SERVICE, COLLECTOR])


@pytest.fixture(scope="session")
def running(workspace: Workspace) -> Iterator[TestMesh]:
    """A mesh that runs before the services are made."""
    mesh = workspace.mesh("mesh", Options(ports="free", profile="full"))
    try:
        mesh.require("envoy", "prometheus")
        yield mesh
    finally:
        mesh.close()


@pytest.fixture(scope="session")
def made(running: TestMesh) -> None:
    """New services by the Makefile's recipe."""
    for name, kind in MADE.items():
        words = [f"NAME={name}", f"KIND={kind}", f"LEFT_OUT={COMPILED}"]
        subprocess.run(["make", "service", *words], cwd=CHECKOUT, check=True)


@pytest.fixture(scope="session")
def grown(running: TestMesh, made: None) -> TestMesh:
    """The mesh with the new services, and a web server of a third party."""
    place = CHECKOUT / "services" / WEB
    place.mkdir()
    (place / "service.toml").write_text(WEB_MANIFEST)
    (place / "server.py").write_text(WEB_SERVER)
    after = TestMesh(running.root, Options(ports="free", profile="full"))
    after.require(*MADE, WEB, "envoy", "prometheus")
    return after


@pytest.mark.parametrize("check", CHECKS)
def test_generated_services_pass_the_checks_of_the_tree(made: None, check: str) -> None:
    program, *words = CHECKS[check]
    done = subprocess.run(
        [BIN / program, *words], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def address(mesh: TestMesh, name: str, port: str = "grpc") -> str:
    return f"localhost:{mesh.mesh.ports[name][port][0]}"


def reason(channel: grpc.Channel, method: str) -> str | None:
    """Why a call with an empty request fails."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method)(b"", timeout=60)
    info = error_info(caught.value)
    return info.reason if info else None


@both
def test_status_shows_a_healthy_service_with_its_version(grown: TestMesh, name: str) -> None:
    told = subprocess.run(
        [BIN / "coinmesh", "status", "--json"],
        env=os.environ | {"COINMESH_HOME": str(grown.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = {row["name"]: row for row in json.loads(told.stdout)["components"]}
    assert rows[name]["ready"]
    assert rows[name]["version"] == "0.1.0"


@both
@pytest.mark.parametrize("port", ["grpc", "metrics"])
def test_nobody_gets_in_without_a_certificate_of_the_mesh(
    grown: TestMesh, name: str, port: str
) -> None:
    for scheme in ("http", "https"):
        unknown = ssl.create_default_context(cafile=grown.home.ca)
        with httpx.Client(verify=unknown) as client, pytest.raises(httpx.TransportError):
            client.get(f"{scheme}://{address(grown, name, port)}/metrics")


@both
def test_the_rule_of_its_rpc_decides_who_may_call_it(grown: TestMesh, name: str) -> None:
    at = address(grown, name)
    with grpc.secure_channel(at, grown.grpc_credentials("redis-exporter")) as channel:
        assert reason(channel, RPCS[name]) == "CALLER_NOT_ALLOWED"
    with grpc.secure_channel(at, grown.grpc_credentials("envoy")) as channel:
        assert reason(channel, RPCS[name]) == "ROLE_NOT_SUFFICIENT"


@both
def test_envoy_routes_users_to_it(grown: TestMesh, name: str) -> None:
    with grown.rest() as rest:

        def answered() -> Any:
            answer = rest.get(PATHS[name])
            return answer.is_success and answer.json()

        assert eventually(answered, f"Envoy routes to {name}", 60)["startTime"]
        assert rest.get(PATHS[name], auth=lambda request: request).status_code == 401


def test_the_gateway_lists_the_collector(grown: TestMesh) -> None:
    with grown.rest() as rest:
        listed = rest.get("/v1/collectors").raise_for_status().json()["collectors"]
    assert {"name": COLLECTOR, "serving": True} in listed


@both
def test_prometheus_scrapes_it(grown: TestMesh, name: str) -> None:
    with httpx.Client(base_url=grown.endpoints["prometheus"], verify=grown.tls()) as prometheus:

        def up() -> bool:
            query = {
                "query": f'up{{job="{name}"}} == 1 and on () coinmesh_ready{{job="{name}"}} == 1'
            }
            answer = prometheus.get("/api/v1/query", params=query).raise_for_status()
            return bool(answer.json()["data"]["result"])

        eventually(up, f"{name} is scraped", 60)


@pytest.mark.parametrize("name", MADE)
def test_it_logs_lines_of_the_meshs_form_under_its_name(grown: TestMesh, name: str) -> None:
    lines = [json.loads(line) for line in grown.component(name).log().splitlines()]
    assert {line["service"] for line in lines} == {name}
    assert len(lines) > 1


def test_the_job_has_run_to_its_end_with_an_identity_and_no_listener(grown: TestMesh) -> None:
    row = grown.status()[JOB]
    assert (row["kind"], row["state"], row["ports"]) == ("step", "done", {})
    assert (grown.home.tls / JOB / "current" / "tls.crt").is_file()
    assert "done" in [
        json.loads(line)["message"] for line in grown.component(JOB).log().splitlines()
    ]


def test_users_reach_a_web_server_and_only_editors_change_something(grown: TestMesh) -> None:
    place = local_user.vault(grown.mesh)
    key = users.add(place.login(grown.home.secrets, USERS), "reader", "viewer", "unlimited")
    with grown.rest() as rest:
        nobody = httpx.Client(base_url=rest.base_url, verify=grown.tls(), timeout=30)
        assert nobody.get(f"/{WEB}/a").status_code == 401
        token = nobody.post("/v1/session", json={"apiKey": key}).raise_for_status().json()["token"]
        reader = {"authorization": f"Bearer {token}", "cookie": "a=b", "x-coinmesh-user": "root"}
        told = nobody.get(f"/{WEB}/a?b=c", headers=reader).raise_for_status().json()
        assert told["path"] == f"/{WEB}/a?b=c"
        assert told["headers"]["x-coinmesh-user"] == "reader"
        assert not {"cookie", "authorization"} & set(told["headers"])
        assert nobody.post(f"/{WEB}/a", headers=reader).status_code == 403
        assert rest.post(f"/{WEB}/a").status_code == 200
        assert rest.get("/notebooks").status_code == 404
        nobody.close()


def test_inside_the_mesh_a_web_server_takes_those_with_a_grant_alone(grown: TestMesh) -> None:
    url = grown.endpoints[WEB]
    for identity, path, status in (
        ("deploy", "/anything", 200),
        ("envoy", f"/{WEB}/a", 200),
        ("envoy", "/anything", 403),
        ("redis-exporter", f"/{WEB}/a", 403),
    ):
        with httpx.Client(verify=grown.tls(identity)) as client:
            assert client.get(url + path).status_code == status, (identity, path)
    unknown = ssl.create_default_context(cafile=grown.home.ca)
    with httpx.Client(verify=unknown) as client, pytest.raises(httpx.TransportError):
        client.get(url)
    assert grown.status()[f"{WEB}-server"]["ports"] == {}
