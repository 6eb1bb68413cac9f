"""Undecodable records of consumers whose topics another service reports as dead letters."""

from __future__ import annotations

import logging

from confluent_kafka import Message

from meshkit.metrics import Metrics
from meshkit.resources import Resource

_log = logging.getLogger(__name__)


class DeadLetterCounter(Resource):
    """Counts records that can't be decoded, for topics whose dead letters another service writes.

    Each record has one dead letter: written by the Spark stream for trades, else by the archive.
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
