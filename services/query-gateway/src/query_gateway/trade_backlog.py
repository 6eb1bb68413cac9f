"""Trades that are on Kafka, not in the table yet, and no longer in memory.

tick-writer commits an offset after the table has all trades before it, and a replica's memory has
all trades from some offset on (`TradeRing.floor`). If the committed offset is below that offset,
the records between them are read. Ids prove nothing here: a venue may skip some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition, murmur2
from confluent_kafka import Message as Record
from google.protobuf.message import Message

from coinmesh_contracts import stored_trades, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.decoding import Decoder, UndecodableError
from meshkit.errors import DataLoss, Unavailable
from meshkit.metrics import Metrics
from meshkit.offsets import bounds
from meshkit.resources import Resource
from meshkit.rotation import Renewals
from meshkit.tails import read_range, tail_consumer
from meshkit.tls import certificate_files
from query_gateway import trades
from query_gateway.settings import GatewaySettings
from query_gateway.trades import TradeRow

_log = logging.getLogger(__name__)
T = TypeVar("T")
TOPIC: Final = topics.TRADES.name
MAX_RECORDS: Final = 50_000
"""Maximum number of records of a partition that are read for one request."""
FIRST_RECORDS: Final = 5_000
"""Number of records read if there are more, to find the trades that are complete before them."""
REQUEST_SECONDS: Final = 5.0
RETRY_AFTER_SECONDS: Final = 2.0


class Missing(NamedTuple):
    """The trades of an instrument that the table lacks.

    Attributes:
        rows: The trades, in order.
        complete: Whether these are all; if not, they are the first ones.
    """

    rows: list[TradeRow]
    complete: bool


class _Read(NamedTuple):
    """An instrument's trades, and its records that aren't decoded yet."""

    rows: list[TradeRow]
    undecoded: list[Record]


class TradeBacklog(Resource):
    """Reads the committed offsets of tick-writer, and the records beyond them.

    Args:
        settings: Kafka connection, and the rules for valid trades.
        decoder: Decodes the topic's values.
        starts: Returns the offset from which on each partition is in memory; empty until known.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        decoder: Decoder,
        starts: Callable[[], dict[int, int]],
    ) -> None:
        self._settings, self._client_id = settings, settings.service_name
        self._decoder, self._starts = decoder, starts
        self._stored: dict[int, int] = {}
        files = certificate_files(settings)
        self._renewals = Renewals(files.version if files else None)
        self._consumer: confluent_kafka.Consumer | None = None
        self._thread = ThreadPoolExecutor(1, "trade-backlog")
        self._turn = asyncio.Lock()
        self._records = 0
        # Result of the last read, so that the pages of one list don't repeat it.
        self._last: tuple[tuple[bytes, int, tuple[int, int]], list[TradeRow]] | None = None

    def register(self, metrics: Metrics) -> None:
        """Add the count of records read."""
        metrics.read_counter(
            "trade_backlog_records",
            "Records read from Kafka because the table of trades was behind memory",
            (),
            lambda: {(): self._records},
        )

    async def missing(self, instrument: str, floor: int | None) -> Missing:
        """Return the trades that a read of the table after this call may lack.

        Args:
            instrument: The instrument.
            floor: The offset from which on the caller has its trades; None to include all records
                that the partition has now.

        Raises:
            Unavailable: KAFKA_UNAVAILABLE.
        """
        starts = self._starts()
        if not starts:
            raise _unavailable()
        key = instrument.encode()
        partition = murmur2(key, len(starts))
        end = starts[partition] if floor is None else max(floor, starts[partition])
        if floor is not None and self._stored.get(partition, 0) >= end:
            return Missing([], True)
        try:
            async with self._turn, asyncio.timeout(2 * REQUEST_SECONDS):
                if floor is None:
                    end = max(end, await self._run(lambda: self._end(partition)))
                if self._stored.get(partition, 0) < end:
                    await self._run(lambda: self._refresh(list(starts)))
                if self._stored.get(partition, 0) >= end:
                    return Missing([], True)
                span = await self._run(lambda: self._span(partition, end))
                if self._last is None or self._last[0] != (key, partition, span):
                    found = await self._run(lambda: self._read(partition, span, key))
                    # A schema id that must be looked up, or an invalid record to count: both are
                    # rare.
                    others = self._rows(await self._decoder.decode(found.undecoded))
                    rows = trades.merge(found.rows, others)
                    self._last = (key, partition, span), rows
                return Missing(self._last[1], span[1] == end)
        except (KafkaException, TimeoutError, Unavailable, DataLoss) as error:
            _log.warning("trades between table and memory can't be read: %s", error)
            raise _unavailable() from error

    async def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            await self._run(self._consumer.close)
        self._thread.shutdown(wait=False)

    def _rows(self, events: Iterable[tuple[Record, Message]]) -> list[TradeRow]:
        """Return the trades that the table will contain."""
        ahead, rows = self._settings.spark_ahead_seconds, list[TradeRow]()
        for record, event in events:
            trade, appended_us = cast(Trade, event), record.timestamp()[1] * 1000
            if stored_trades.rejected(trade, record.key(), appended_us, ahead) is None:
                rows.append(trades.from_event(trade))
        return rows

    def _connected(self) -> confluent_kafka.Consumer:
        version = self._renewals.pending()
        if self._consumer is None or version is not None:
            if self._consumer is not None:
                self._consumer.close()
            # The consumer reads the group's offsets and never joins the group.
            self._consumer = tail_consumer(
                self._settings, self._client_id, {"group.id": stored_trades.GROUP}
            )
            if version is not None:
                self._renewals.taken(version)
        return self._consumer

    def _refresh(self, partitions: list[int]) -> None:
        committed = self._connected().committed(
            [TopicPartition(TOPIC, number) for number in partitions], timeout=REQUEST_SECONDS
        )
        for place in committed:
            if place.error is None:
                self._stored[place.partition] = max(0, place.offset)

    def _end(self, partition: int) -> int:
        return bounds(self._connected(), (TOPIC, partition), REQUEST_SECONDS)[1]

    def _span(self, partition: int, end: int) -> tuple[int, int]:
        """Return the offsets to read: from the first to before the second."""
        earliest = bounds(self._connected(), (TOPIC, partition), REQUEST_SECONDS)[0]
        start = max(self._stored.get(partition, 0), earliest)
        return start, end if end - start <= MAX_RECORDS else start + FIRST_RECORDS

    def _read(self, partition: int, span: tuple[int, int], key: bytes) -> _Read:
        consumer, place = self._connected(), (TOPIC, partition)
        starts, ends = {place: span[0]}, {place: span[1]}
        found = _Read([], [])
        try:
            for batch in read_range(consumer, starts, ends, REQUEST_SECONDS):
                self._records += len(batch)
                for record in batch:
                    if record.key() != key:
                        continue
                    try:
                        event = self._decoder.decode_value(TOPIC, record.value())
                    except UndecodableError:
                        found.undecoded.append(record)
                    else:
                        found.rows.extend(self._rows([(record, event)]))
        finally:
            # Otherwise the consumer keeps fetching.
            consumer.unassign()
        return found

    async def _run(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)


def behind() -> Unavailable:
    """Return the error of a listing whose range includes trades that can't be read now."""
    return Unavailable(
        "TRADES_BEHIND",
        "trades of this range are not stored yet, because their writer is behind; try again in a "
        "few seconds, or list older trades by end_time",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _unavailable() -> Unavailable:
    return Unavailable(
        "KAFKA_UNAVAILABLE",
        "trades can't be proven complete now, because Kafka doesn't answer; try again in a few "
        "seconds",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
