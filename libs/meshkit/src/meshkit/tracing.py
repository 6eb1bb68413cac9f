"""OpenTelemetry traces, off unless an OTLP endpoint is set, and their propagation through Kafka.

`trace_layer` creates a span per RPC, `Tracing` the spans around it. Records carry `traceparent` in
their headers only if their span is sampled, because it costs 55 bytes a record.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast

from confluent_kafka import Message
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from meshkit.calls import Call, Layer
from meshkit.metrics import Metrics
from meshkit.otlp import OtlpExporter
from meshkit.settings import TelemetrySettings

Headers = list[tuple[str, str | bytes | None]]

TRACEPARENT = "traceparent"
# Attribute names. OpenTelemetry's for messaging and databases may still change: defined only here.
EVENT_ID = "coinmesh.event_id"
INSTRUMENT = "coinmesh.instrument"
TOPIC = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
OFFSET = "messaging.kafka.offset"
PEER = "peer.service"
"""The service on the other side of a span, if that creates no spans itself."""

QUEUE_SPANS = 4096
EXPORT_EACH_MS = 1000

_SCOPE: Final = InstrumentationScope("meshkit")
_IDS: Final = RandomIdGenerator()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status()


class Tracing:
    """The spans of one process; none without an OTLP endpoint.

    It isn't the process's global provider: it is passed to the code that creates spans.

    Attributes:
        is_on: Whether spans are exported.
        ratio: The share of new traces that is sampled.
        tracer: Creates spans: child spans follow their parent's sampling, new traces the ratio.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        processor: SpanProcessor | None = None,
    ) -> None:
        """Export spans to the settings' endpoint, or to `processor`."""
        self.ratio = settings.trace_sampling_ratio
        self._processor = processor
        self._exporter: OtlpExporter | None = None
        if processor is None and settings.otlp_endpoint is not None:
            self._exporter = OtlpExporter(settings.otlp_endpoint, settings)
            self._processor = BatchSpanProcessor(
                self._exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=EXPORT_EACH_MS
            )
        self.is_on = self._processor is not None
        self.tracer: trace.Tracer = trace.NoOpTracer()
        self._resource = Resource({SERVICE_NAME: settings.service_name})
        if self._processor is not None:
            provider = TracerProvider(
                sampler=ParentBased(TraceIdRatioBased(self.ratio)),
                resource=self._resource,
                shutdown_on_exit=False,
            )
            provider.add_span_processor(self._processor)
            self.tracer = provider.get_tracer(_SCOPE.name)

    def register(self, metrics: Metrics) -> None:
        """Add the counts of spans to the process's metrics."""
        if self._exporter is not None:
            _export_counts(self._exporter, metrics)

    @contextmanager
    def asking(self, peer: str, operation: str, **attributes: str) -> Generator[None]:
        """Create a CLIENT span around a request to a component, only inside a sampled span."""
        if not is_sampled():
            yield
            return
        attributes |= {PEER: peer, "db.system.name": peer}
        with self.tracer.start_as_current_span(operation, None, SpanKind.CLIENT, attributes):
            yield

    def received(self, record: Message, begun_ns: int, event_id: str) -> None:
        """Record a CONSUMER span for processing a record since `begun_ns`, if it is traced."""
        context = of_record(record)
        if context is None:
            return
        attributes: dict[str, AttributeValue] = {
            TOPIC: record.topic() or "",
            PARTITION: str(record.partition()),
            OFFSET: record.offset() or 0,
            EVENT_ID: event_id,
        }
        parent = trace.get_current_span(context).get_span_context()
        self.keep(
            f"process {record.topic()}", SpanKind.CONSUMER, attributes, begun_ns, parent=parent
        )

    def keep(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        begun_ns: int,
        *,
        parent: SpanContext | None = None,
        context: SpanContext | None = None,
        error: str = "",
    ) -> None:
        """Record a finished span, at a third of the cost of a tracer's live span.

        Args:
            name: Name of the span.
            kind: The side of the operation.
            attributes: Must not be changed afterwards.
            begun_ns: Start time, ns since the Unix epoch; the end time is now.
            parent: Context of the parent span; None at the start of a trace.
            context: The span's context if it was already propagated (`new_context`); else a new
                one.
            error: The error; "" for none.
        """
        if self._processor is None:
            return
        span = ReadableSpan(
            name,
            context or new_context(parent),
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=Status(StatusCode.ERROR, error) if error else _UNSET,
            start_time=begun_ns,
            end_time=time.time_ns(),
            instrumentation_scope=_SCOPE,
        )
        self._processor.on_end(span)

    def skips(self) -> float:
        """Return how many items to skip before the next traced one: random, the ratio on average.

        A countdown is cheap enough for a hot path; a sampler's decision costs microseconds.
        """
        if not self.is_on or self.ratio <= 0:
            return math.inf
        if self.ratio >= 1:
            return 0
        return math.floor(math.log(1 - random.random()) / math.log1p(-self.ratio))

    def shutdown(self) -> None:
        """Export waiting spans, within a few seconds."""
        if self._processor is not None:
            self._processor.shutdown()


def _export_counts(exporter: OtlpExporter, metrics: Metrics) -> None:
    for name, text in (("sent", "Spans that were sent"), ("lost", "Spans that were lost")):
        metrics.read_counter(
            f"trace_spans_{name}", text, (), lambda name=name: {(): getattr(exporter, name)}
        )


def is_sampled() -> bool:
    """Return whether the active span is sampled."""
    return trace.get_current_span().get_span_context().trace_flags.sampled


def new_context(parent: SpanContext | None = None) -> SpanContext:
    """Return the context of a new sampled span: in its parent's trace, or in a new one."""
    trace_id = parent.trace_id if parent is not None else _IDS.generate_trace_id()
    return SpanContext(trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=_SAMPLED)


def traceparent(context: SpanContext) -> str:
    """Return a span's context in W3C's form (https://www.w3.org/TR/trace-context)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def extract(headers: Iterable[tuple[str, bytes | str | None]] | None) -> Context:
    """Return the trace context in a record's headers; empty if it is missing or malformed."""
    carrier: dict[str, str] = {}
    for name, value in headers or ():
        if name in (TRACEPARENT, "tracestate") and value is not None:
            carrier[name] = value if isinstance(value, str) else value.decode("ascii", "replace")
    return propagate.extract(carrier, context=otel_context.Context())


def of_record(record: Message) -> Context | None:
    """Return the context of a record's sender; None unless it is sampled."""
    headers = record.headers()
    if not headers:
        return None
    context = extract(cast(list[tuple[str, bytes]], headers))
    sampled = trace.get_current_span(context).get_span_context().trace_flags.sampled
    return context if sampled else None


def trace_layer(tracing: Tracing) -> Layer:
    """Return the layer that creates a SERVER span per unary call and a short one per stream.

    A stream's span is not kept open: it would be exported hours later, when the stream closes.
    """

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        if not tracing.is_on:
            yield
            return
        metadata = cast(
            Mapping[str, Any], dict(cast(Any, call.context.invocation_metadata() or ()))
        )
        parent = extract((name, metadata[name]) for name in metadata)
        attributes = {"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.name}
        span = tracing.tracer.start_span(
            call.method.lstrip("/"), parent, SpanKind.SERVER, attributes
        )
        if call.streams_response or call.streams_request:
            span.end()
            yield
            return
        with trace.use_span(span, end_on_exit=True, record_exception=False):
            try:
                yield
            except BaseException as error:
                code = call.code_of(error)
                span.set_attribute("rpc.grpc.status_code", code.value[0])
                span.set_status(trace.StatusCode.ERROR, code.name)
                raise

    return layer
