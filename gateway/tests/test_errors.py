"""Errors, a service's and Envoy's own: google.rpc.Status as JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from coinmesh_gateway.catalogue import declared
from coinmesh_gateway.settings import Limits

pytestmark = pytest.mark.component

I = "/v1/instruments"  # noqa: E741
C = "/v1/collectors/binance"
TREE = Path(__file__).parent / "tree"
LARGE = '{"instrument": "%s"}' % ("a" * (2 << 20))


def parsed(response: Any) -> tuple[int, int, str, str, str]:
    """HTTP status, code, domain, reason and message of an error."""
    assert response.headers["content-type"] == "application/json", response.text
    body = json_format.Parse(response.text, status_pb2.Status())
    info = error_details_pb2.ErrorInfo()
    assert body.details[0].Unpack(info)
    return response.status_code, body.code, info.domain, info.reason, body.message


@pytest.mark.parametrize(
    ("instrument", "expected"),
    [
        ("binance.UNKNOWN", (404, 5, "UNKNOWN_INSTRUMENT", "no such instrument")),
        ("binance.BUSY", (429, 8, "QUOTA", "too many requests")),
        ("binance.BAD", (400, 3, "BAD_INSTRUMENT", "not a name")),
        ("binance.BROKEN", (500, 13, "INTERNAL", "failed, see the log")),
    ],
)
def test_a_services_error_keeps_its_details(
    envoy: Any, instrument: str, expected: tuple[int, int, str, str]
) -> None:
    http, code, domain, reason, message = parsed(envoy.rest.get(f"{I}/{instrument}"))
    assert (http, code, reason, message) == expected
    assert domain == "coinmesh"


OWN: dict[str, tuple[str, dict[str, Any], tuple[int, int, str, str]]] = {
    "no route": ("GET /nothing", {}, (404, 5, "UNKNOWN_PATH", "nothing at this path")),
    "unknown collector": ("GET /v1/collectors/x/status", {}, (404, 5, "UNKNOWN_PATH", "nothing")),
    "a verb that is none": (f"GET {I}/a:view", {}, (404, 5, "UNKNOWN_PATH", "nothing")),
    "wrong method": (f"POST {I}", {}, (405, 12, "METHOD_NOT_ALLOWED", "allow header")),
    "unknown parameter": (f"GET {I}?foo=1", {}, (400, 3, "INVALID_REQUEST", '"foo"')),
    "bad number": (f"GET {I}?page_size=many", {}, (400, 3, "INVALID_REQUEST", '"many"')),
    "number too large": (f"GET {I}?page_size=9999999999", {}, (400, 3, "INVALID_REQUEST", "9999")),
    "bad time": (f"GET {I}/a/bars?start_time=noon", {}, (400, 3, "INVALID_REQUEST", "timestamp")),
    "body is not JSON": (
        f"POST {C}:backfill",
        {"content": "{nope"},
        (400, 3, "INVALID_REQUEST", "Expected"),
    ),
    "body has a wrong type": (
        f"POST {C}:backfill",
        {"json": {"ids": {"first": -1}}},
        (400, 3, "INVALID_REQUEST", "irst"),
    ),
    "body too large": (
        f"POST {C}/subscriptions",
        {"content": LARGE},
        (413, 3, "REQUEST_TOO_LARGE", "body"),
    ),
    "headers too large": (
        f"GET {I}",
        {"headers": {"x-large": "a" * 40_000}},
        (431, 3, "HEADERS_TOO_LARGE", "headers"),
    ),
    "page of another origin": (
        f"POST {C}:drain",
        {"json": {}, "headers": {"origin": "https://evil.example"}},
        (403, 7, "ORIGIN_NOT_ALLOWED", "origin"),
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_an_error_of_envoy(envoy: Any, case: str) -> None:
    request, arguments, (http, code, reason, words) = OWN[case]
    response = envoy.rest.request(*request.split(" ", 1), **arguments)
    *told, message = parsed(response)
    assert told == [http, code, "envoy.coinmesh", reason]
    assert words in message
    if http == 405:
        assert response.headers["allow"] == "GET"


def test_what_was_refused_reached_no_service(envoy: Any) -> None:
    asked = envoy.backends["collector-binance"][0].double.asked
    before = len(asked)
    envoy.rest.post(f"{C}/subscriptions", content=LARGE)
    evil = {"origin": "https://evil.example"}
    envoy.rest.post(f"{C}/subscriptions", json={"instrument": "a"}, headers=evil)
    assert len(asked) == before
    envoy.rest.post(f"{C}/subscriptions", json={"instrument": "a"})
    assert len(asked) == before + 1


@pytest.fixture(scope="module")
def narrow(start_envoy: Any, start_gateway: Any, start_collector: Any) -> Iterator[Any]:
    """Envoy with little patience and small limits; its collector is down."""
    backends = {"query-gateway": [start_gateway("1")], "collector-binance": [start_collector()]}
    backends["collector-binance"][0].stop()
    catalogue = {
        name: service.model_copy(update={"timeout": 1.0})
        for name, service in declared(TREE).items()
    }
    yield start_envoy(backends, catalogue, limits=Limits(response_bytes=65_536))
    backends["query-gateway"][0].stop()


def test_a_service_that_is_down(narrow: Any) -> None:
    *told, message = parsed(narrow.rest.get(f"{C}/status"))
    assert told == [503, 14, "envoy.coinmesh", "BACKEND_UNAVAILABLE"]
    assert "try again" in message


def test_a_service_that_takes_too_long(narrow: Any) -> None:
    *told, message = parsed(narrow.rest.get(f"{I}/binance.SLOW"))
    assert told == [504, 4, "envoy.coinmesh", "BACKEND_TIMEOUT"]
    assert "in time" in message


def test_a_reply_that_is_too_large(narrow: Any) -> None:
    *told, message = parsed(narrow.rest.get(f"{I}/a/bars?interval=1m&page_size=5000"))
    assert told == [500, 13, "envoy.coinmesh", "INTERNAL"]
    assert "ask for less" in message
