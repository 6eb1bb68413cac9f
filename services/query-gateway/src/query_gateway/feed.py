"""Feeds the live view from Kafka: every replica reads every partition of the live topics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, cast

from confluent_kafka import KafkaException
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient
from google.protobuf.message import Message

from coinmesh_contracts import stored_trades, topics
from coinmesh_contracts.events.v1.liveness_pb2 import Liveness
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.backoff import Backoff
from meshkit.consumer import Consumer, Since, Start
from meshkit.decoding import Decoder, Letters
from meshkit.dlq import DeadLetterCounter
from meshkit.errors import Unavailable
from meshkit.kafka import client_config, client_log
from meshkit.metrics import Metrics, exemplar, histogram
from meshkit.registry import Registry
from meshkit.resources import Resource
from meshkit.tracing import Tracing, of_record
from query_gateway.coverage import Coverage
from query_gateway.hub import Hub, Partition
from query_gateway.live_view import LIVE_TOPICS, LiveView, News
from query_gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)
_STREAMED: Final = {topics.TRADES.name, topics.QUOTES.name, topics.BARS.name}
_LONG: Final = {topics.BARS.name, topics.INDICATORS.name}
_BATCH: Final = 250
_LIVENESS_SECONDS: Final = 10.0  # an older record makes no statement about the present
_PROBE_SECONDS: Final = 2.0
_LAG_SECONDS: Final = 1.0


async def create_decoder(registry: Registry, rejections: DeadLetterCounter) -> Decoder:
    """Return a decoder for every topic that has a contract.

    Raises:
        SchemaNotRegistered: A topic's schema isn't in the registry.
        Unavailable: The registry doesn't answer.
    """
    messages = {topic.name: topic.message for topic in topics.ALL if topic.message is not None}
    ids = await registry.resolve(messages)
    return Decoder(messages, ids, registry, rejections)


class Feed(Resource):
    """Reads the live topics into the view and the hub.

    Args:
        settings: Kafka connection and lookback times.
        decode: Decodes the topics' values.
        view: Receives every event.
        coverage: Receives the collectors' liveness records.
        hub: Receives new events.
        rejections: Counts events whose values are invalid; they are skipped.
        note: Called with each new event.
        tracing: Creates a span for each record whose sender is traced.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        decode: Decoder,
        view: LiveView,
        coverage: Coverage,
        hub: Hub,
        *,
        rejections: Letters,
        note: Callable[[News], None],
        tracing: Tracing,
    ) -> None:
        self._settings, self._decoder, self._view, self._hub = settings, decode, view, hub
        self._coverage, self._rejections = coverage, rejections
        self._note, self._tracing = note, tracing
        self._metrics: Metrics | None = None
        self._events: dict[tuple[str, ...], int] = {}
        self._delay = histogram(
            "live_delay_seconds",
            "From Kafka's append to the view: the oldest record of a batch, and traced ones",
            ("topic",),
        )
        self._newest_ms: dict[str, int] = {}
        self._consumer: Consumer | None = None
        self.caught_up = asyncio.Event()
        self.connected = False
        self._trade_starts: dict[int, int] = {}

    def register(self, metrics: Metrics) -> None:
        """Add Kafka's state and the counts of events, and later the consumer's lag."""
        self._metrics = metrics
        metrics.add(self._delay)
        metrics.read_gauge("kafka_up", "1 while Kafka answers", (), lambda: {(): self.connected})
        metrics.read_counter(
            "live_events", "Events taken into the view", ("topic",), self._events.copy
        )
        metrics.read_gauge(
            "live_newest_seconds",
            "When Kafka took the newest event in the view, as a Unix time",
            ("topic",),
            lambda: {(topic,): ms / 1000 for topic, ms in self._newest_ms.copy().items()},
        )
        metrics.read_gauge(
            "stream_readers", "Readers of streams", (), lambda: {(): self._hub.readers}
        )
        metrics.read_gauge(
            "book_holes", "Holes in book deltas", (), lambda: {(): self._view.book_holes}
        )

    async def run(self) -> None:
        """Read until cancelled; keep `connected` equal to whether Kafka is reachable.

        Raises:
            DataLoss: An offset or a topic no longer exists; the process must restart.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe())
            tasks.create_task(self._read())
            tasks.create_task(self._watch_lags())

    def is_connected(self) -> bool:
        """Return whether Kafka is reachable."""
        return self.connected

    def is_live(self) -> bool:
        """Return whether the view has caught up with Kafka and Kafka is reachable."""
        return self.connected and self.caught_up.is_set()

    def trade_starts(self) -> dict[int, int]:
        """Return the first offset read of each partition of trades; empty until known."""
        return self._trade_starts

    async def _read(self) -> None:
        names = [topic.name for topic in LIVE_TOPICS]
        consumer = Consumer.assigned(
            self._settings,
            names,
            "end",
            client_id=self._settings.service_name,
            metrics=self._metrics,
        )
        async with consumer:
            await self._seek(consumer)
            ends = await consumer.ends()
            self._check(consumer, ends)
            self._consumer = consumer
            async for batch in consumer.batches(_BATCH):
                await self.take(batch)
                if not self.caught_up.is_set():
                    self._check(consumer, ends)

    async def _watch_lags(self) -> None:
        while True:
            if (consumer := self._consumer) is not None:
                ages, lags = consumer.lag_seconds(), consumer.lags()
                # A partition with newer records from which none was read has no age.
                self._coverage.take_lags(
                    {
                        key: ages.get(key, inf if lags.get(key) else 0.0)
                        for key in consumer.positions
                    }
                )
            await asyncio.sleep(_LAG_SECONDS)

    async def _probe(self) -> None:
        client = AdminClient(
            client_config(self._settings, f"{self._settings.service_name}-probe"),
            logger=client_log(),
        )
        while True:
            try:
                await asyncio.to_thread(client.list_topics, topics.TRADES.name, _PROBE_SECONDS)
                connected = True
            except KafkaException:
                connected = False
            if connected != self.connected:
                if connected:
                    _log.info("Kafka answers; live data is live")
                else:
                    _log.warning("Kafka doesn't answer: degraded, live data stands still")
            self.connected = connected
            await asyncio.sleep(_PROBE_SECONDS)

    async def take(self, batch: list[Record]) -> None:
        """Process records in the order of their partitions."""
        counts: dict[str, int] = {}
        now_ms = time.time() * 1000
        begun_ns = time.time_ns()
        for record, event in await self._decode(batch):
            topic, partition = str(record.topic()), record.partition()
            appended_ms = record.timestamp()[1]
            sender = of_record(record) if self.caught_up.is_set() else None
            if sender is not None or (topic not in counts and self.caught_up.is_set()):
                # The first record of a topic has waited longest; a traced record provides the
                # exemplar.
                delay = max(0.0, now_ms - appended_ms) / 1000
                self._delay.labels(topic).observe(delay, exemplar(sender))
            self._newest_ms[topic] = max(appended_ms, self._newest_ms.get(topic, 0))
            counts[topic] = counts.get(topic, 0) + 1
            if isinstance(event, Liveness):
                self._coverage.apply(event, appended_ms)
                continue
            news = await self._apply(record, event)
            if news is not None:
                self._note(news)
            if topic in _STREAMED:
                self._hub.publish((topic, int(partition or 0)), int(record.offset() or 0), news)
            # Records read again at start were traced when they were first read.
            if self.caught_up.is_set() and record.headers():
                self._tracing.received(record, begun_ns, cast(Any, event).event_id)
        for topic, count in counts.items():
            self._events[topic,] = self._events.get((topic,), 0) + count

    async def _apply(self, record: Record, event: Message) -> News | None:
        """Apply an event to the view; count and skip an event that the tables would reject."""
        if isinstance(event, Trade):
            appended_us = record.timestamp()[1] * 1000
            reason = stored_trades.rejected(
                event, record.key(), appended_us, self._settings.spark_ahead_seconds
            )
            if reason is not None:
                await self._rejections.send(record, reason, "not a valid trade")
                return None
        try:
            return self._view.apply(event, int(record.offset() or 0))
        except (ValueError, ArithmeticError) as error:
            await self._rejections.send(record, "INVALID_VALUE", str(error))
            return None

    async def _decode(self, batch: list[Record]) -> list[tuple[Record, Message]]:
        """Return the batch's events; wait while the registry is needed and doesn't answer."""
        backoff = Backoff(base=0.5, cap=5.0)
        while True:
            try:
                return await self._decoder.decode(batch)
            except Unavailable as error:
                _log.warning("live data waits: %s", error.message)
                await backoff.wait()

    async def _seek(self, consumer: Consumer) -> None:
        """Seek to the beginning of the instruments, and far enough back on the other topics."""
        partitions = list(consumer.positions)
        now = datetime.now(UTC)
        short = Since(now - timedelta(seconds=self._settings.live_lookback_seconds))
        long = Since(now - timedelta(seconds=self._settings.bars_lookback_seconds))
        starts: dict[str, Start] = {topics.INSTRUMENTS.name: "beginning"}
        starts |= dict.fromkeys(_LONG, long)
        starts[topics.LIVENESS.name] = Since(now - timedelta(seconds=_LIVENESS_SECONDS))
        positions: dict[Partition, int] = {}
        for topic in LIVE_TOPICS:
            keys = [key for key in partitions if key[0] == topic.name]
            await consumer.seek(starts.get(topic.name, short), keys)
            positions.update(consumer.positions)
        await consumer.seek(positions, partitions)
        self._trade_starts = {n: at for (t, n), at in positions.items() if t == topics.TRADES.name}
        self._hub.begin({key: at for key, at in positions.items() if key[0] in _STREAMED})
        _log.info("reading the live topics", extra={"partitions": len(partitions)})

    def _check(self, consumer: Consumer, ends: dict[Partition, int]) -> None:
        positions = consumer.positions
        if all(positions[key] >= end for key, end in ends.items()):
            _log.info("caught up with the live topics")
            self.caught_up.set()
