"""Streams through Envoy: lines of JSON or server-sent events, as they come."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.component

SSE = {"accept": "text/event-stream"}


def events(text: str) -> list[dict[str, Any]]:
    """Server-sent events with data alone."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    assert all(block.startswith("data: ") for block in blocks), text
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("accept", [{}, {"accept": "application/x-ndjson"}, {"accept": "*/*"}])
def test_lines_of_json(envoy: Any, accept: dict[str, str]) -> None:
    response = envoy.rest.get("/v1/stream?instruments=a&instruments=b", headers=accept)
    assert response.headers["content-type"] == "application/json"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["batch"]["events"][0]["instrument"] for line in lines] == ["a", "b"]


@pytest.mark.parametrize("accept", ["text/event-stream", "text/event-stream, */*;q=0.1"])
def test_server_sent_events(envoy: Any, accept: str) -> None:
    headers = {"accept": accept}
    response = envoy.rest.get("/v1/stream?instruments=a&instruments=b", headers=headers)
    assert response.headers["content-type"] == "text/event-stream"
    found = events(response.text)
    assert [each["batch"]["events"][0]["instrument"] for each in found] == ["a", "b"]


@pytest.mark.parametrize("headers", [{}, SSE], ids=["lines", "sse"])
def test_an_event_arrives_while_the_stream_is_open(envoy: Any, headers: dict[str, str]) -> None:
    path = "/v1/stream?instruments=a&resume_token=open"
    with envoy.rest.stream("GET", path, headers=headers) as response:
        assert '"instrument":"a"' in next(response.iter_lines())


@pytest.mark.parametrize("headers", [{}, SSE], ids=["lines", "sse"])
def test_an_error_in_mid_stream_is_a_message(envoy: Any, headers: dict[str, str]) -> None:
    path = "/v1/stream?instruments=a&resume_token=in-band"
    response = envoy.rest.get(path, headers=headers)
    assert response.status_code == 200
    found = (
        events(response.text) if headers else [json.loads(x) for x in response.text.splitlines()]
    )
    assert found[-1]["error"]["code"] == 14
    assert found[-1]["error"]["details"][0]["reason"] == "KAFKA_DOWN"


@pytest.mark.parametrize("headers", [{}, SSE], ids=["lines", "sse"])
def test_an_error_before_the_first_message_is_a_status(envoy: Any, headers: dict[str, str]) -> None:
    response = envoy.rest.get("/v1/stream", headers=headers)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["details"][0]["reason"] == "NO_INSTRUMENT"


@pytest.mark.parametrize("headers", [{}, SSE], ids=["plain", "sse"])
def test_lines_that_a_service_renders_pass_unchanged(envoy: Any, headers: dict[str, str]) -> None:
    response = envoy.rest.get("/v1/events?topic=t&instrument=é&limit=3", headers=headers)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = response.text.splitlines()
    assert [json.loads(line)["timestamp"] for line in lines] == [0, 0, 1, 1, 2, 2]
    assert json.loads(lines[0])["symbol"] == "é"


def test_streams_are_not_held_back_by_compression(envoy: Any) -> None:
    headers = {"accept-encoding": "gzip, br, zstd"}
    path = "/v1/stream?instruments=a&resume_token=open"
    with envoy.rest.stream("GET", path, headers=headers) as response:
        assert "content-encoding" not in response.headers
        assert next(response.iter_raw())
