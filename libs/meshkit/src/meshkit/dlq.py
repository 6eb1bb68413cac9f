"""Dead letters: what can't be decoded or isn't valid goes to `ingest.dlq.v1` with the reason."""

from __future__ import annotations

import logging
from typing import cast

from confluent_kafka import Message

from coinmesh_contracts import dead_letters
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import SchemaIds
from meshkit.resources import Resource

_log = logging.getLogger(__name__)


class DeadLetterCounter(Resource):
    """Counts records that can't be decoded, for consumers of topics that another one reports.

    A record has one dead letter: of trades the Spark stream's, of other topics the archive's.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[str, ...], int] = {}

    def register(self, metrics: Metrics) -> None:
        """Add the counts to the process's metrics."""
        metrics.read_counter(
            "undecodable_records",
            "Records that are not events of their topic",
            ("topic", "reason"),
            self._records.copy,
        )

    async def send(self, message: Message, reason: str, detail: str) -> None:
        """Count a record."""
        key = str(message.topic()), reason
        self._records[key] = self._records.get(key, 0) + 1
        _log.warning("skipped a record: %s", detail, extra={"reason": reason})


class DeadLetters:
    """Sends records to the dead letter topic; `ids` must hold that topic's schema."""

    def __init__(
        self, producer: Producer, ids: SchemaIds, *, reporter: str, metrics: Metrics
    ) -> None:
        """`reporter` is the service's name."""
        self._producer, self._reporter = producer, reporter
        self._header = ids.header(dead_letters.TOPIC)
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
        dead_letter = dead_letters.of_record(
            topic=topic,
            partition=partition,
            offset=offset,
            # The append time: the same again if the record is given up again after a restart.
            receive_time=max(0, message.timestamp()[1]) * 1_000_000,
            key=message.key(),
            value=message.value(),
            reason=reason,
            detail=detail,
            reporter=self._reporter,
        )
        self._sent.labels(topic, reason).inc()
        _log.warning(
            "dead letter: %s",
            dead_letter.detail,
            extra={"event_id": dead_letter.event_id, "reason": reason},
        )
        await self._producer.deliver(
            dead_letters.TOPIC,
            dead_letters.record_key(dead_letter),
            self._header + dead_letter.SerializeToString(),
        )
