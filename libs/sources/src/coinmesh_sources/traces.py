"""Traces of sampled frames: from the socket to Kafka's acknowledgement.

A countdown selects one frame in N, so that unsampled frames cost one subtraction.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import KafkaError
from google.protobuf.message import Message
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue

from coinmesh_contracts import framing, topics
from coinmesh_sources.inputs import Record
from coinmesh_sources.publisher import Outgoing, TracedRecord
from meshkit import tracing
from meshkit.tracing import Tracing

_MESSAGES: Final[dict[str, type[Message]]] = {
    topic.name: topic.message for topic in topics.ALL if topic.message is not None
}


class FrameTraces:
    """Creates the spans of sampled frames.

    Attributes:
        wait: Frames until the next sampled one; counted down by the caller.
    """

    def __init__(self, source: str, tracing_: Tracing) -> None:
        self._source, self._tracing = source, tracing_
        self.wait = tracing_.skips()

    def choose(
        self, records: Sequence[Record], receive_ns: int, connection: str
    ) -> Sequence[Outgoing]:
        """Return a sampled frame's records with traces; a frame without records is not sampled."""
        if not records:
            return records
        self.wait = self._tracing.skips()
        # No parent, regardless of the span that is active where frames are received.
        received = tracing.new_context()
        attributes: dict[str, AttributeValue] = {
            tracing.PEER: self._source,
            "coinmesh.connection": connection,
            "coinmesh.records": len(records),
        }
        self._tracing.keep(
            f"receive {self._source}", SpanKind.CONSUMER, attributes, receive_ns, context=received
        )
        now = time.time_ns()
        return [self._traced(record, received, now) for record in records]

    def _traced(self, record: Record, parent: SpanContext, now: int) -> TracedRecord:
        topic, key, value = record
        sent = tracing.new_context(parent)
        headers: tracing.Headers = [(tracing.TRACEPARENT, tracing.traceparent(sent).encode())]

        def delivered(error: KafkaError | None, message: Any) -> None:
            event: Any = _MESSAGES[topic].FromString(value[framing.HEADER_SIZE :])
            attributes: dict[str, AttributeValue] = {
                tracing.TOPIC: topic,
                tracing.EVENT_ID: event.event_id,
                tracing.INSTRUMENT: event.instrument,
            }
            if error is None:
                attributes[tracing.PARTITION] = str(message.partition())
                attributes[tracing.OFFSET] = message.offset()
            self._tracing.keep(
                f"send {topic}",
                SpanKind.PRODUCER,
                attributes,
                now,
                parent=parent,
                context=sent,
                error=error.str() if error is not None else "",
            )

        return topic, key, value, headers, delivered
