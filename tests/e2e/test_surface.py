"""The surface of the running mesh: live streams, clear refusals, gRPC with reflection."""

import json
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

pytestmark = pytest.mark.e2e

FAR = "start_time=2024-08-01T00:00:00Z&end_time=2024-07-01T00:00:00Z"
REFUSALS = {
    "{i}x": (404, "UNKNOWN_INSTRUMENT"),
    "{i}/bars?interval=7m": (400, "UNKNOWN_INTERVAL"),
    "{i}/bars": (400, "UNKNOWN_INTERVAL"),
    f"{{i}}/bars?interval=1m&{FAR}": (400, "INVERTED_RANGE"),
    "{i}/bars?interval=1m&page_token=nonsense": (400, "BAD_PAGE_TOKEN"),
    "{i}/bars:view?interval=1m&limit=100000": (400, "TOO_LARGE"),
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
    [
        ("query-gateway.coinmesh", "coinmesh.market.v1.MarketService"),
        ("collector-binance.coinmesh", "coinmesh.collector.v1.CollectorService"),
    ],
)
def test_services_are_found_by_reflection_and_are_healthy(
    run: Any, authority: str, service: str
) -> None:
    options = [("grpc.default_authority", authority)]
    with grpc.insecure_channel(run.mesh.endpoints["grpc"], options) as channel:
        assert service in ProtoReflectionDescriptorDatabase(channel).get_services()
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=10
        )
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_collector_is_listed_and_serves(run: Any, call: Any) -> None:
    assert call(run.rest, "/v1/collectors")["collectors"] == [{"name": "binance", "serving": True}]
    listed = call(run.rest, "/v1/collectors/binance/subscriptions")["subscriptions"]
    assert {each["instrument"] for each in listed} == set(run.instruments.values())
