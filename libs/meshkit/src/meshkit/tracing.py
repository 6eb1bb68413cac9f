"""Traces by OpenTelemetry, off unless an OTLP endpoint is set, and their way through Kafka.

A span per RPC is made by `trace_layer`. Records carry `traceparent` in their headers only
when their span is sampled: 55 bytes a record are worth it for those alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from meshkit.calls import Call, Layer
from meshkit.settings import ServiceSettings
from meshkit.tls import certificate_files

Headers = list[tuple[str, bytes]]


def configure(settings: ServiceSettings) -> TracerProvider | None:
    """A provider that exports to the settings' endpoint; None when there is none.

    It isn't made the process's global one: whoever makes spans is given it.
    """
    if settings.otlp_endpoint is None:
        return None
    files = certificate_files(settings)
    if files is None:
        exporter = OTLPSpanExporter(settings.otlp_endpoint, insecure=True)
    else:
        pair = files.read()
        credentials = grpc.ssl_channel_credentials(pair.roots, pair.key, pair.chain)
        exporter = OTLPSpanExporter(settings.otlp_endpoint, credentials=credentials)
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: settings.service_name}),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sampling_ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def tracer(provider: TracerProvider | None) -> trace.Tracer:
    """A tracer of `provider`; one that does nothing without it."""
    return provider.get_tracer("meshkit") if provider else trace.NoOpTracer()


def inject(headers: Headers | None = None) -> Headers:
    """`headers` with the active span's `traceparent`, unchanged if it isn't sampled."""
    headers = headers if headers is not None else []
    if trace.get_current_span().get_span_context().trace_flags.sampled:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        headers.extend((name, value.encode()) for name, value in carrier.items())
    return headers


def extract(headers: Iterable[tuple[str, bytes | str | None]] | None) -> otel_context.Context:
    """The trace context in a record's headers; an empty one if there is none or it is malformed."""
    carrier: dict[str, str] = {}
    for name, value in headers or ():
        if name in ("traceparent", "tracestate") and value is not None:
            carrier[name] = value if isinstance(value, str) else value.decode("ascii", "replace")
    return propagate.extract(carrier)


def trace_layer(provider: TracerProvider | None) -> Layer:
    """A SERVER span for each unary call, and a short span for the opening of a stream.

    A stream's span isn't kept open: it would be exported hours later, at the stream's end.
    """
    rpc_tracer = tracer(provider)

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        if provider is None:
            yield
            return
        metadata = cast(
            Mapping[str, Any], dict(cast(Any, call.context.invocation_metadata() or ()))
        )
        parent = extract((name, metadata[name]) for name in metadata)
        attributes = {"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.name}
        span = rpc_tracer.start_span(
            call.method.lstrip("/"), parent, trace.SpanKind.SERVER, attributes
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
