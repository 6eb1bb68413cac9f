"""Trace contexts through Kafka headers and gRPC metadata."""

import asyncio
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import Request, urlopen

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshkit import otlp, tracing
from meshkit.errors import NotFound
from meshkit.metrics import exemplar
from meshkit.settings import ServiceSettings
from meshkit.tracing import Tracing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def made(exporter: InMemorySpanExporter) -> Tracing:
    """Every trace is kept, in memory."""
    settings = ServiceSettings(trace_sampling_ratio=1)
    return Tracing(settings, processor=SimpleSpanProcessor(exporter))


def test_tracing_is_off_without_an_endpoint():
    off = Tracing(ServiceSettings(trace_sampling_ratio=1))
    with off.tracer.start_as_current_span("s") as span, off.asking("redis", "GET"):
        assert not span.is_recording()
    assert off.skips() == math.inf
    off.shutdown()


def test_a_context_goes_through_headers(made: Tracing):
    with made.tracer.start_as_current_span("produce") as sent:
        value = tracing.traceparent(sent.get_span_context())
    headers = [("kind", b"x"), (tracing.TRACEPARENT, value.encode())]
    received = trace.get_current_span(tracing.extract(headers)).get_span_context()
    assert received.trace_id == sent.get_span_context().trace_id
    assert received.span_id == sent.get_span_context().span_id
    assert received.is_remote


@given(st.lists(st.tuples(st.text(), st.binary() | st.text() | st.none())) | st.none())
def test_odd_headers_make_an_empty_context(headers: Any):
    assert not trace.get_current_span(tracing.extract(headers)).get_span_context().is_valid


@given(st.binary())
def test_a_malformed_traceparent_makes_an_empty_context(value: bytes):
    context = tracing.extract([("traceparent", value)])
    assert not trace.get_current_span(context).get_span_context().is_valid


async def test_an_rpc_continues_its_callers_trace(
    service: Any, made: Tracing, exporter: InMemorySpanExporter
):
    async def unary(request: bytes, context: object) -> bytes:
        return f"{trace.get_current_span().get_span_context().trace_id:032x}".encode()

    async with service(unary=unary, tracing=made) as started:
        answer = await started.unary(metadata=[("traceparent", PARENT)])
    assert answer.decode() == PARENT.split("-")[1]
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "test.Echo/Unary"]
    assert span.kind is trace.SpanKind.SERVER
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.attributes["rpc.method"] == "Unary"


def test_an_observation_leads_to_its_senders_trace_when_that_is_sampled():
    sampled, unsampled = (
        tracing.extract([("traceparent", PARENT[:-2] + flags)]) for flags in ("01", "00")
    )
    assert exemplar(sampled) == {"trace_id": PARENT.split("-")[1]}
    assert exemplar(unsampled) is None


@pytest.mark.parametrize(("flags", "leads"), [("01", True), ("00", False)])
async def test_a_duration_leads_to_its_trace_when_that_is_sampled(
    service: Any, made: Tracing, flags: str, leads: bool
):
    async def unary(request: bytes, context: object) -> bytes:
        return request

    settings = ServiceSettings(metrics_listen="127.0.0.1:0", drain_grace_seconds=0.2)
    async with service(unary=unary, settings=settings, tracing=made) as started:
        await started.unary(metadata=[("traceparent", PARENT[:-2] + flags)])
        page = f"http://{started.running.metrics}/metrics"
        request = Request(page, headers={"Accept": "application/openmetrics-text"})
        with await asyncio.to_thread(urlopen, request) as answer:
            text = answer.read().decode()
    assert text.endswith("# EOF\n")
    assert (f'# {{trace_id="{PARENT.split("-")[1]}"}}' in text) is leads


async def test_a_failed_rpc_has_an_error_span(
    service: Any, made: Tracing, exporter: InMemorySpanExporter
):
    async def unary(request: bytes, context: object) -> bytes:
        raise NotFound("NOTHING", "nothing there")

    async with service(unary=unary, tracing=made) as started:
        with pytest.raises(grpc.aio.AioRpcError):
            await started.unary()
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["rpc.grpc.status_code"] == 5


async def test_a_stream_has_a_span_at_its_opening(
    service: Any, made: Tracing, exporter: InMemorySpanExporter
):
    open_spans: list[int] = []

    async def stream(request: bytes, context: object) -> Any:
        open_spans.append(len(exporter.get_finished_spans()))
        yield b"x"

    async with service(stream=stream, tracing=made) as started:
        assert [message async for message in started.stream()] == [b"x"]
    assert open_spans == [1]


class Record:
    """As much of a consumed record as is looked at."""

    def __init__(self, headers: list[tuple[str, bytes]] | None) -> None:
        self._headers = headers

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def topic(self) -> str:
        return "market.trades.v1"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 0


def test_a_received_record_continues_its_senders_trace(
    made: Tracing, exporter: InMemorySpanExporter
):
    made.received(Record([("traceparent", PARENT.encode())]), 17, "e")
    (span,) = exporter.get_finished_spans()
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.start_time == 17
    assert span.attributes[tracing.EVENT_ID] == "e"


@pytest.mark.parametrize("headers", [None, [], [("traceparent", b"x")], [("a", b"b")]])
def test_a_record_that_is_not_traced_makes_no_span(
    made: Tracing, exporter: InMemorySpanExporter, headers: Any
):
    made.received(Record(headers), 0, "e")
    made.received(Record([("traceparent", f"{PARENT[:-2]}00".encode())]), 0, "e")
    assert exporter.get_finished_spans() == ()


def test_a_request_is_told_inside_a_trace_only(made: Tracing, exporter: InMemorySpanExporter):
    with made.asking("redis", "GET"):
        pass
    assert exporter.get_finished_spans() == ()
    with made.tracer.start_as_current_span("rpc") as rpc, made.asking("redis", "GET"):
        pass
    span = exporter.get_finished_spans()[0]
    assert (span.name, span.attributes[tracing.PEER]) == ("GET", "redis")
    assert span.parent.span_id == rpc.get_span_context().span_id


def test_what_was_chosen_is_kept_whatever_the_ratio(exporter: InMemorySpanExporter):
    made = Tracing(ServiceSettings(trace_sampling_ratio=0), processor=SimpleSpanProcessor(exporter))
    made.tracer.start_span("by ratio").end()
    made.keep("chosen", trace.SpanKind.CONSUMER, {}, 5)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.start_time, span.parent) == ("chosen", 5, None)
    assert span.end_time > span.start_time
    assert span.status.is_unset
    assert made.skips() == math.inf


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.01])
def test_skips_keep_the_ratio(ratio: float):
    made = Tracing(
        ServiceSettings(trace_sampling_ratio=ratio),
        processor=SimpleSpanProcessor(InMemorySpanExporter()),
    )
    mean = statistics.fmean(made.skips() for _ in range(20_000))
    assert mean == pytest.approx(1 / ratio - 1, rel=0.1)


class Collector(TraceServiceServicer):
    """Counts spans as an OTLP receiver."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()


@pytest.mark.slow
def test_spans_are_lost_while_nobody_takes_them_and_sent_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otlp, "REST_SECONDS", 0)
    taking = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(taking, server)
    port = server.add_insecure_port("127.0.0.1:0")
    exporter = otlp.OtlpExporter(f"http://127.0.0.1:{port}", ServiceSettings())
    made = Tracing(ServiceSettings(trace_sampling_ratio=1), processor=SimpleSpanProcessor(exporter))
    made.tracer.start_span("early").end()
    assert (exporter.sent, exporter.lost) == (0, 1)
    server.start()
    try:
        while not exporter.sent:
            made.tracer.start_span("late").end()
    finally:
        server.stop(None)
    assert taking.names == ["late"]
    made.shutdown()
    assert exporter.export([]).name == "FAILURE"
