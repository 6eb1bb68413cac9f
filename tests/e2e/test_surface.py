"""The surface of the running mesh: live streams, clear refusals, gRPC with reflection."""

import json
from typing import Any

import declared
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from coinmesh_access import users
from coinmesh_access.login import USERS
from coinmesh_local import local_user

pytestmark = pytest.mark.e2e

FAR = "start_time=2024-08-01T00:00:00Z&end_time=2024-07-01T00:00:00Z"
REFUSALS = {
    "{i}x": (404, "UNKNOWN_INSTRUMENT"),
    "{i}/bars?interval=7m": (400, "UNKNOWN_INTERVAL"),
    "{i}/bars": (400, "UNKNOWN_INTERVAL"),
    f"{{i}}/bars?interval=1m&{FAR}": (400, "INVERTED_RANGE"),
    "{i}/bars?interval=1m&page_token=nonsense": (400, "BAD_PAGE_TOKEN"),
    "{i}/bars:view?interval=1m&page_size=100000": (400, "TOO_LARGE"),
    "{i}/book?depth=100000": (400, "TOO_LARGE"),
    "{i}/bars?interval=1m&colour=red": (400, "INVALID_REQUEST"),
    "{i}/indicators?interval=1m&indicator=luck": (400, "UNKNOWN_INDICATOR"),
}


@pytest.mark.parametrize("path", REFUSALS)
def test_bad_input_is_refused_with_a_reason(run: Any, path: str) -> None:
    status, reason = REFUSALS[path]
    for instrument in run.instruments.values():
        response = run.rest.get("/v1/instruments/" + path.format(i=instrument))
        body = response.json()
        assert (response.status_code, body["code"]) == (status, 5 if status == 404 else 3)
        assert body["message"]
        (info,) = [each for each in body["details"] if each["@type"].endswith("ErrorInfo")]
        assert info["reason"] == reason


@pytest.mark.parametrize("headers", [{}, {"accept": "text/event-stream"}], ids=["lines", "sse"])
def test_the_live_stream_tells_of_every_channel(run: Any, headers: dict[str, str]) -> None:
    instrument = next(iter(run.instruments.values()))
    query = {"instruments": instrument, "intervals": "1s"}
    wanted, tokens = {"trade", "quote", "bar"}, set()
    with run.rest.stream("GET", "/v1/stream", params=query, headers=headers) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line:
                continue
            message = json.loads(line.removeprefix("data: "))
            tokens.add(message["resumeToken"])
            assert "error" not in message
            for event in message.get("batch", {}).get("events", []):
                assert event["instrument"] == instrument
                wanted -= set(event)
            if not wanted:
                break
    assert not wanted
    assert "" not in tokens


@pytest.mark.parametrize(
    ("authority", "service"),
    [(f"{name}.coinmesh", api) for name, apis in declared.SERVED.items() for api in apis],
)
def test_services_are_found_by_reflection_and_are_healthy(
    run: Any, authority: str, service: str
) -> None:
    options = [
        ("grpc.default_authority", authority),
        ("grpc.ssl_target_name_override", authority),
    ]
    credentials = run.mesh.user_credentials()
    with grpc.secure_channel(run.mesh.endpoints["grpc"], credentials, options) as channel:
        assert service in ProtoReflectionDescriptorDatabase(channel).get_services()
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=60
        )
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_collectors_are_listed_and_serve(run: Any, call: Any) -> None:
    expected = [{"name": name, "serving": True} for name in declared.COLLECTORS]
    assert call(run.rest, "/v1/collectors")["collectors"] == expected
    listed = call(run.rest, "/v1/collectors/binance/subscriptions")["subscriptions"]
    assert {each["instrument"] for each in listed} == set(run.instruments.values())


def reason(response: Any) -> tuple[int, str]:
    """Status and reason of an error."""
    return response.status_code, response.json()["details"][0]["reason"]


def test_roles_are_held_to_from_the_listener_to_the_service(run: Any) -> None:
    place = local_user.vault(run.mesh.mesh)
    key = users.add(place.login(run.mesh.home.secrets, USERS), "reader", "viewer", "unlimited")
    rest = run.mesh.rest()
    rest.auth = None
    path = "/v1/collectors/binance/subscriptions"
    spoofed = {"x-coinmesh-user": "root", "x-coinmesh-roles": "WyJhZG1pbiJd"}
    assert reason(rest.get(path, headers=spoofed)) == (401, "TOKEN_REQUIRED")
    token = rest.post("/v1/session", json={"apiKey": key}).json()["token"]
    reader = {"authorization": f"Bearer {token}"}
    assert rest.get("/v1/session", headers=reader).json()["user"] == "reader"
    assert rest.get(path, headers=reader).status_code == 200
    for headers in (reader, reader | spoofed):
        refused = rest.delete(f"{path}/binance.NONE", headers=headers)
        assert reason(refused) == (403, "ROLE_NOT_SUFFICIENT")


def test_a_browser_logs_in_reads_and_logs_out(run: Any) -> None:
    key = (run.mesh.home.secrets / local_user.KEY).read_text().strip()
    with run.mesh.rest() as rest:
        rest.auth = None
        login = rest.post("/v1/session", json={"apiKey": key, "browser": True}).json()
        assert not login["token"]
        assert rest.get("/v1/session").json()["user"] == "local"
        assert rest.get("/v1/instruments").status_code == 200
        again = {"browser": True}
        assert reason(rest.post("/v1/session", json=again)) == (403, "CSRF_TOKEN_REQUIRED")
        token = {"x-csrf-token": login["csrfToken"]}
        assert rest.post("/v1/session", json=again, headers=token).json()["user"] == "local"
        assert rest.delete("/v1/session", headers=token).status_code == 200
        assert reason(rest.get("/v1/session")) == (401, "TOKEN_REQUIRED")
