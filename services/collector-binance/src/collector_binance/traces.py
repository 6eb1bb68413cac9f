"""Traces of chosen frames: from the exchange's socket to Kafka's acknowledgement.

One frame in so many is chosen by counting down, so that all others cost a subtraction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError
from google.protobuf.message import Message
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from coinmesh_contracts import framing, topics
from collector_binance.core.encode import Record
from collector_binance.core.instruments import VENUE
from collector_binance.outlet import Outgoing, TracedRecord
from meshkit import tracing
from meshkit.tracing import Tracing

_MESSAGES: Final[dict[str, type[Message]]] = {
    topic.name: topic.message for topic in topics.ALL if topic.message is not None
}


class FrameTraces:
    """Makes the spans of chosen frames.

    Attributes:
        wait: Frames that pass until the next one is chosen; counted down by the caller.
    """

    def __init__(self, made: Tracing) -> None:
        self._tracer, self._skips = made.chosen, made.skips
        self.wait = made.skips()

    def choose(
        self, records: Sequence[Record], receive_ns: int, connection: str
    ) -> Sequence[Outgoing]:
        """A chosen frame's records, traced; one that makes no record passes its turn on."""
        if not records:
            return records
        self.wait = self._skips()
        attributes: dict[str, AttributeValue] = {
            tracing.PEER: VENUE,
            "coinmesh.connection": connection,
            "coinmesh.records": len(records),
        }
        # Without a parent, whatever is active where frames come in.
        received = self._tracer.start_span(
            f"receive {VENUE}",
            otel_context.Context(),
            SpanKind.CONSUMER,
            attributes,
            start_time=receive_ns,
        )
        parent = trace.set_span_in_context(received)
        now = time.time_ns()
        received.end(now)
        return [self._traced(record, parent, now) for record in records]

    def _traced(self, record: Record, parent: otel_context.Context, now: int) -> TracedRecord:
        topic, key, value = record
        event: Any = _MESSAGES[topic].FromString(value[framing.HEADER_SIZE :])
        attributes: dict[str, AttributeValue] = {
            tracing.TOPIC: topic,
            tracing.EVENT_ID: event.event_id,
            tracing.INSTRUMENT: event.instrument,
        }
        span = self._tracer.start_span(
            f"send {topic}", parent, SpanKind.PRODUCER, attributes, start_time=now
        )
        headers: tracing.Headers = [(tracing.TRACEPARENT, tracing.traceparent(span).encode())]

        def delivered(error: KafkaError | None, message: Any) -> None:
            _end(span, error, message)

        return topic, key, value, headers, delivered


def _end(span: Span, error: KafkaError | None, message: Any) -> None:
    """Ends a span at Kafka's acknowledgement; runs in the producer's thread."""
    if error is None:
        span.set_attribute(tracing.PARTITION, str(message.partition()))
        span.set_attribute(tracing.OFFSET, message.offset())
    else:
        span.set_status(StatusCode.ERROR, error.str())
    span.end()
