"""Trace contexts through Kafka headers and gRPC metadata."""

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from meshkit import tracing
from meshkit.errors import NotFound
from meshkit.settings import ServiceSettings

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "configure", lambda settings: made)
    return made


def test_tracing_is_off_without_an_endpoint():
    assert tracing.configure(ServiceSettings()) is None
    with tracing.tracer(None).start_as_current_span("s") as span:
        assert not span.is_recording()


def test_a_context_goes_through_headers(provider: TracerProvider):
    with provider.get_tracer("t").start_as_current_span("produce") as sent:
        headers = tracing.inject([("kind", b"x")])
    assert headers[0] == ("kind", b"x")
    received = trace.get_current_span(tracing.extract(headers)).get_span_context()
    assert received.trace_id == sent.get_span_context().trace_id
    assert received.span_id == sent.get_span_context().span_id
    assert received.is_remote


def test_only_sampled_spans_cost_a_header():
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("t").start_as_current_span("s"):
        assert tracing.inject() == []
    assert tracing.inject() == []


@given(st.lists(st.tuples(st.text(), st.binary() | st.text() | st.none())) | st.none())
def test_odd_headers_make_an_empty_context(headers: Any):
    assert not trace.get_current_span(tracing.extract(headers)).get_span_context().is_valid


@given(st.binary())
def test_a_malformed_traceparent_makes_an_empty_context(value: bytes):
    context = tracing.extract([("traceparent", value)])
    assert not trace.get_current_span(context).get_span_context().is_valid


async def test_an_rpc_continues_its_callers_trace(
    service: Any, provider: TracerProvider, exporter: InMemorySpanExporter
):
    async def unary(request: bytes, context: object) -> bytes:
        return f"{trace.get_current_span().get_span_context().trace_id:032x}".encode()

    async with service(unary=unary) as started:
        answer = await started.unary(metadata=[("traceparent", PARENT)])
    assert answer.decode() == PARENT.split("-")[1]
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "test.Echo/Unary"]
    assert span.kind is trace.SpanKind.SERVER
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.attributes["rpc.method"] == "Unary"


async def test_a_failed_rpc_has_an_error_span(
    service: Any, provider: TracerProvider, exporter: InMemorySpanExporter
):
    async def unary(request: bytes, context: object) -> bytes:
        raise NotFound("NOTHING", "nothing there")

    async with service(unary=unary) as started:
        with pytest.raises(grpc.aio.AioRpcError):
            await started.unary()
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["rpc.grpc.status_code"] == 5


async def test_a_stream_has_a_span_at_its_opening(
    service: Any, provider: TracerProvider, exporter: InMemorySpanExporter
):
    open_spans: list[int] = []

    async def stream(request: bytes, context: object) -> Any:
        open_spans.append(len(exporter.get_finished_spans()))
        yield b"x"

    async with service(stream=stream) as started:
        assert [message async for message in started.stream()] == [b"x"]
    assert open_spans == [1]
