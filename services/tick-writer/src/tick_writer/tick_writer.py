"""Stores the trades of Kafka in Cassandra: at least once, idempotently, committed afterwards.

The table is therefore complete up to the group's committed offset of each partition, and
`trade_hours` has each hour for which the table has trades; query-gateway relies on both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar, cast

from confluent_kafka import Message as Record

from coinmesh_contracts import stored_trades, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.backoff import Backoff
from meshkit.consumer import Consumer
from meshkit.decoding import Decoder, Letters
from meshkit.errors import Unavailable
from meshkit.metrics import Metrics, histogram
from meshkit.resources import Resource
from tick_writer.settings import TickWriterSettings

_log = logging.getLogger(__name__)
T = TypeVar("T")

TRADES: Final = "trades"
HOURS: Final = "trade_hours"
STATEMENTS: Final[Mapping[str, str]] = {
    TRADES: stored_trades.INSERT,
    HOURS: stored_trades.INSERT_HOUR,
}
MAX_HOURS: Final = 100_000
"""Maximum number of hours remembered as written; beyond it all are written again."""
BATCH_RECORDS: Final = 2000
BATCH_SECONDS: Final = 0.05
ROWS_PER_WRITE: Final = 30
"""Rows of one partition in a write: more would exceed Cassandra's warning threshold of 5 KiB."""
MAX_WRITES: Final = 32
"""Maximum number of concurrent writes."""


class TradeTable(Protocol):
    """The part of the Cassandra session that is used here."""

    connected: asyncio.Event

    async def write(self, statement: str, rows: Sequence[Sequence[bytes]]) -> None:
        """Write rows of one partition; raise `Unavailable` if that fails."""
        ...


class TickWriter(Resource):
    """A member of the group that stores trades.

    Args:
        settings: Kafka connection, and the rules for valid trades.
        decoder: Decodes the topic's values.
        rejections: Counts invalid records. The Spark stream writes their dead letters, once.
        cassandra: The session.
    """

    def __init__(
        self,
        settings: TickWriterSettings,
        decoder: Decoder,
        rejections: Letters,
        cassandra: TradeTable,
    ) -> None:
        self._settings, self._decoder, self._rejections = settings, decoder, rejections
        self._cassandra = cassandra
        self._metrics: Metrics | None = None
        self._failing = False
        self._hours: dict[tuple[bytes, bytes], float] = {}
        self._stored = self._retries = 0
        self._write_seconds = histogram("ticks_write_seconds", "Duration of a write of trades")
        self._delay_seconds = histogram(
            "ticks_delay_seconds", "From Kafka's append of a batch's first trade to its storage"
        )

    def register(self, metrics: Metrics) -> None:
        """Add the counts of trades and retries, the durations, and later the consumer's lag."""
        self._metrics = metrics
        metrics.add(self._write_seconds)
        metrics.add(self._delay_seconds)
        metrics.read_counter(
            "ticks_stored", "Trades stored, repeated ones included", (), lambda: {(): self._stored}
        )
        metrics.read_counter(
            "ticks_retries", "Repetitions of failed steps", (), lambda: {(): self._retries}
        )

    async def is_ready(self) -> bool:
        """Return whether Cassandra accepts writes."""
        return self._cassandra.connected.is_set() and not self._failing

    async def run(self) -> None:
        """Store trades until cancelled.

        Raises:
            DataLoss: The topic or a permission is missing.
        """
        await self._cassandra.connected.wait()
        consumer = Consumer.group(
            self._settings,
            [topics.TRADES.name],
            stored_trades.GROUP,
            client_id=self._settings.service_name,
            metrics=self._metrics,
        )
        async with consumer:
            async for batch in consumer.batches(BATCH_RECORDS, BATCH_SECONDS):
                await self.store(batch)
                try:
                    await consumer.commit()
                except Unavailable as error:
                    # The next commit includes these records; until then they may be reprocessed.
                    _log.warning("commit failed: %s", error.message)

    async def store(self, batch: Sequence[Record]) -> None:
        """Store the valid trades of a batch; return when Cassandra has all of them."""
        events = await self._retried(lambda: self._decoder.decode(batch))
        partitions: dict[tuple[bytes, ...], list[list[bytes]]] = defaultdict(list)
        hours: dict[bytes, set[bytes]] = defaultdict(set)
        recently = time.monotonic() - stored_trades.HOUR_SECONDS
        for record, event in events:
            trade, appended_us = cast(Trade, event), record.timestamp()[1] * 1000
            key = record.key()
            reason = stored_trades.rejected(
                trade, key, appended_us, self._settings.spark_ahead_seconds
            )
            if reason is not None:
                await self._rejections.send(record, reason, "not a valid trade")
                continue
            row = stored_trades.row(trade)
            partitions[row.partition].append(row.arguments)
            if self._hours.get(row.hour, recently) <= recently:
                hours[row.partition[0]].add(row.partition[1])
        if hours:
            await self._store_hours(hours)
        await self._store_rows(TRADES, partitions.values())
        if partitions:
            self._delay_seconds.observe(max(0.0, time.time() - batch[0].timestamp()[1] / 1000))

    async def _store_hours(self, hours: Mapping[bytes, set[bytes]]) -> None:
        """Index hours by instrument; before any of their trades, so that readers find these."""
        began = time.monotonic()
        await self._store_rows(
            HOURS, ([[name, hour] for hour in sorted(starts)] for name, starts in hours.items())
        )
        if len(self._hours) > MAX_HOURS:
            self._hours.clear()
        for name, starts in hours.items():
            self._hours.update(dict.fromkeys(((name, hour) for hour in starts), began))

    async def _store_rows(self, statement: str, partitions: Iterable[list[list[bytes]]]) -> None:
        """Write the rows of several partitions; return once Cassandra has all of them."""
        turns = asyncio.Semaphore(MAX_WRITES)

        async def write(rows: list[list[bytes]]) -> None:
            async with turns:
                await self._retried(lambda: self._write(statement, rows))

        async with asyncio.TaskGroup() as writes:
            for rows in partitions:
                for first in range(0, len(rows), ROWS_PER_WRITE):
                    writes.create_task(write(rows[first : first + ROWS_PER_WRITE]))

    async def _write(self, statement: str, rows: list[list[bytes]]) -> None:
        start = time.monotonic()
        await self._cassandra.write(statement, rows)
        if statement == TRADES:
            self._write_seconds.observe(time.monotonic() - start)
            self._stored += len(rows)

    async def _retried(self, step: Callable[[], Awaitable[T]]) -> T:
        """Retry a step until it succeeds: nothing can be committed before."""
        backoff = Backoff(base=0.2, cap=3.0)
        while True:
            try:
                result = await step()
            except Unavailable as error:
                self._failing = True
                self._retries += 1
                _log.debug("retrying: %s", error.message)
                await backoff.wait()
            else:
                self._failing = False
                return result
