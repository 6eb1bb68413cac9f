"""`coinmesh trace`: what is made of Jaeger's answers."""

import io
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from coinmesh_cli import trace
from coinmesh_cli.jaeger import Jaeger, Span, edges
from coinmesh_cli.main import app
from meshkit import tracing
from meshkit.errors import NotFound, Unavailable

MAIN, OTHER = "a" * 32, "b" * 32


def span(trace_id: str, span_id: str, service: str, name: str, **more: Any) -> dict[str, Any]:
    """A span as Jaeger's API shows it."""
    references = [
        {
            "refType": kind,
            "traceID": more.get("other", trace_id) if kind != "CHILD_OF" else trace_id,
            "spanID": more[key],
        }
        for key, kind in (("parent", "CHILD_OF"), ("link", "FOLLOWS_FROM"))
        if key in more
    ]
    return {
        "traceID": trace_id,
        "spanID": span_id,
        "operationName": name,
        "references": references,
        "startTime": more.get("start", 0),
        "duration": more.get("took", 10),
        "tags": [{"key": key, "value": value} for key, value in more.get("tags", {}).items()],
        "processID": service,
    }


def answer(*spans: dict[str, Any]) -> dict[str, Any]:
    names = {one["processID"] for one in spans}
    processes = {name: {"serviceName": name} for name in names}
    return {"data": [{"spans": list(spans), "processes": processes}]}


CHOSEN = answer(
    span(MAIN, "1", "collector", "receive", start=100),
    span(MAIN, "2", "collector", "send", parent="1", start=110),
    span(MAIN, "3", "spark", "micro-batch", parent="2", start=500, other=OTHER, link="7"),
)
LINKED = answer(
    span(OTHER, "6", "collector", "send", start=90),
    span(OTHER, "7", "spark", "micro-batch", parent="6", start=500),
    span(
        OTHER,
        "8",
        "spark",
        "write",
        parent="7",
        start=600,
        tags={"peer.service": "cassandra", "span.kind": "client"},
    ),
    span(OTHER, "9", "gateway", "process", parent="8", start=900, took=1100),
)


@pytest.fixture
def jaeger(monkeypatch: pytest.MonkeyPatch) -> Jaeger:
    pages = {f"/api/traces/{MAIN}": CHOSEN, f"/api/traces/{OTHER}": LINKED}
    pages["/api/services"] = {"data": ["collector", "spark"]}

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/traces":
            known = "event-1" in request.url.params["tags"]
            found = known and request.url.params["service"] == "collector"
            return httpx.Response(200, json=CHOSEN if found else {"data": []})
        page = pages.get(request.url.path)
        return httpx.Response(200, json=page) if page else httpx.Response(404)

    made = Jaeger("http://jaeger", None)
    made._client = httpx.Client(base_url="http://jaeger", transport=httpx.MockTransport(serve))
    return made


def test_an_event_leads_to_its_trace(jaeger: Jaeger) -> None:
    assert jaeger.of_event("event-1") == MAIN
    with pytest.raises(NotFound, match=r"no trace tells of 'event-2'.*COINMESH_TRACE_SAMPLING"):
        jaeger.of_event("event-2")


def test_a_trace_goes_on_where_a_linked_one_tells_of_the_same_work(jaeger: Jaeger) -> None:
    found = [(depth, one.operation) for depth, one in trace.tree(jaeger.whole(MAIN))]
    assert found == [(0, "receive"), (1, "send"), (2, "micro-batch"), (3, "write"), (4, "process")]


def traced(trace_id: str, start: int, *services: str, parent: str = "") -> dict[str, Any]:
    """The trace of an event that goes from service to service."""
    spans = [
        span(
            trace_id,
            f"{trace_id[0]}{number}",
            service,
            "process",
            start=start + number,
            tags={tracing.EVENT_ID: f"event-{trace_id[0]}"},
            **({"parent": f"{trace_id[0]}{number - 1}"} if number or parent else {}),
        )
        for number, service in enumerate(services)
    ]
    return answer(*spans)["data"][0]


def test_last_is_the_newest_trace_that_reaches_all_services() -> None:
    whole = [
        traced(digit * 32, start, "collector", "spark") for digit, start in (("a", 1), ("b", 5))
    ]
    request = traced("f" * 32, 9, "collector", "spark")
    for one in request["spans"]:
        one["tags"] = []
    traces = [
        *whole,
        traced("c" * 32, 7, "collector"),  # not there yet
        traced("d" * 32, 8, "collector", "spark", parent="lost"),
        request,  # of no event
    ]

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/services":
            return httpx.Response(200, json={"data": ["collector", "spark"]})
        return httpx.Response(200, json={"data": traces})

    made = Jaeger("http://jaeger", None)
    made._client = httpx.Client(base_url="http://jaeger", transport=httpx.MockTransport(serve))
    assert made.last_of_an_event() == "b" * 32
    traces.clear()
    with pytest.raises(NotFound, match="no event has been traced yet"):
        made.last_of_an_event()


@pytest.mark.parametrize("words", [[], ["event-1", "--last"]])
def test_trace_takes_an_event_or_last(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["trace", *words])
    assert result.exit_code == 2
    assert "--last" in result.output


def test_an_unknown_trace_is_named(jaeger: Jaeger) -> None:
    with pytest.raises(NotFound, match=f"has no trace {'c' * 32}"):
        jaeger.whole("c" * 32)


def test_a_jaeger_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"doesn't answer.*coinmesh status"):
        Jaeger("http://127.0.0.1:1", None).services()


def test_the_timeline_is_drawn_to_scale(jaeger: Jaeger) -> None:
    out = io.StringIO()
    trace.draw(Console(file=out, width=160), MAIN, jaeger.whole(MAIN))
    lines = out.getvalue().splitlines()
    assert lines[0] == f"trace {MAIN}"
    last = lines[-1]
    assert last.split()[:4] == ["gateway", "process", "0.8", "1.1"]
    assert last.rstrip().endswith("█" * 22)
    assert any("write → cassandra" in line for line in lines)


def test_the_document_has_offsets_and_depths(jaeger: Jaeger) -> None:
    found = trace.document(MAIN, jaeger.whole(MAIN))
    assert (found["start"], found["duration"]) == (100, 1900)
    assert [row["offset"] for row in found["spans"]] == [0, 10, 400, 500, 800]


def test_edges_name_components_without_spans_too() -> None:
    page = LINKED["data"][0]
    spans = [Span.parse(one, page["processes"]) for one in page["spans"]]
    expected = {("collector", "spark"), ("spark", "cassandra"), ("spark", "gateway")}
    assert edges(spans) == expected
