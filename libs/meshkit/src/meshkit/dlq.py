"""Dead letters: what can't be decoded or isn't valid goes to `ingest.dlq.v1` with the reason."""

from __future__ import annotations

import logging
from typing import cast

from confluent_kafka import Message

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1 import event_type_pb2
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import SchemaIds

TOPIC = topics.DEAD_LETTERS.name
MAX_DETAIL = 500
_log = logging.getLogger(__name__)


class DeadLetters:
    """Sends records to the dead letter topic; `ids` must hold that topic's schema."""

    def __init__(
        self, producer: Producer, ids: SchemaIds, *, reporter: str, metrics: Metrics
    ) -> None:
        """`reporter` is the service's name."""
        self._producer, self._reporter = producer, reporter
        self._header = ids.header(TOPIC)
        self._sent = metrics.counter(
            "dead_letters", "Records given up, by origin and reason", ("topic", "reason")
        )

    async def send(self, message: Message, reason: str, detail: str) -> None:
        """Give up a record of a topic; returns when Kafka has the dead letter.

        Args:
            message: The record, kept with its key, value and coordinates.
            reason: Why, as an UPPER_SNAKE_CASE code.
            detail: Why, in a line for people.
        """
        # A record that was read has all three.
        topic = cast(str, message.topic())
        partition, offset = cast(int, message.partition()), cast(int, message.offset())
        key = message.key()
        instrument = ""
        known = topics.BY_NAME.get(topic)
        if key is not None and known is not None and known.key == "instrument":
            instrument = key.decode("utf-8", "replace")
        letter = DeadLetter(
            event_id=f"dlq:{topic}:{partition}:{offset}",
            # The record's append time: the same again if it is given up again after a restart.
            receive_time=max(0, message.timestamp()[1]) * 1_000_000,
            instrument=instrument,
            origin_topic=topic,
            origin_partition=partition,
            origin_offset=offset,
            key=key,
            value=message.value() or b"",
        )
        await self._send(letter, topic, reason, detail)

    async def send_input(
        self,
        *,
        connection: str,
        sequence: int,
        receive_time: int,
        value: bytes,
        reason: str,
        detail: str,
        instrument: str = "",
        symbol: str = "",
    ) -> None:
        """Give up input that never was on a topic; returns when Kafka has the dead letter.

        Args:
            connection: The connection it came by; also the dead letter's key.
            sequence: Its number on that connection.
            receive_time: When it came, in nanoseconds since the Unix epoch.
            value: The input as received.
            reason: Why, as an UPPER_SNAKE_CASE code.
            detail: Why, in a line for people.
            instrument: The instrument concerned, if known.
            symbol: The venue's symbol, if known.
        """
        letter = DeadLetter(
            event_id=f"dlq:{connection}:{sequence}",
            receive_time=receive_time,
            instrument=instrument,
            symbol=symbol,
            origin_partition=-1,
            origin_offset=-1,
            key=connection.encode(),
            value=value,
        )
        await self._send(letter, "", reason, detail)

    async def _send(self, letter: DeadLetter, topic: str, reason: str, detail: str) -> None:
        letter.source = letter.reporter = self._reporter
        letter.type = event_type_pb2.EVENT_TYPE_DEAD_LETTER
        letter.reason = reason
        letter.detail = " ".join(detail.split())[:MAX_DETAIL]
        self._sent.labels(topic, reason).inc()
        _log.warning(
            "dead letter: %s", letter.detail, extra={"event_id": letter.event_id, "reason": reason}
        )
        key = letter.key if letter.HasField("key") else None
        value = self._header + letter.SerializeToString()
        await self._producer.deliver(TOPIC, key, value)
