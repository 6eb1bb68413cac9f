"""Kafka consumers as asynchronous batches: assigned partitions or a consumer group.

Nothing is committed automatically: call `commit` after the batch's effect. Every call into
librdkafka runs on the consumer's one thread, so the event loop never blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition, murmur2

from meshkit.errors import DataLoss, Unavailable
from meshkit.kafka import (
    FETCH_CONFIG,
    Config,
    OutageReporter,
    await_topics,
    client_config,
    client_log,
    is_record,
    retrying,
)
from meshkit.metrics import Metrics, Read
from meshkit.offsets import Partition, Since, Start, Tail, bounds, offsets
from meshkit.resources import Resource
from meshkit.rotation import Renewals
from meshkit.settings import KafkaSettings
from meshkit.tls import certificate_files

__all__ = ["Consumer", "Keyed", "Partition", "Since", "Start", "Tail"]
_log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_SECONDS = 0.25
CONSUMER_CONFIG: Config = {
    **FETCH_CONFIG,
    "partition.assignment.strategy": "cooperative-sticky",
}
# Commit errors after a partition moved to another member, which reprocesses the batch.
_LOST_PARTITION = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}


@dataclass(frozen=True, slots=True)
class Keyed:
    """The partition that the mesh's producers (murmur2) choose for a key."""

    topic: str
    key: bytes


class Consumer(Resource):
    """Batches of records; create it with `assigned` or `group` and use it as a context manager."""

    def __init__(
        self,
        settings: KafkaSettings,
        topics: Iterable[str | Partition | Keyed],
        config: Config,
        *,
        start: Start | None,
        metrics: Metrics | None,
    ) -> None:
        self._settings, self._wanted = settings, list(topics)
        self._start: Start | None = start
        self._failure: DataLoss | None = None
        reporter = OutageReporter(settings.kafka_bootstrap_servers, self._fatal)
        merged = {**CONSUMER_CONFIG, **config, "error_cb": reporter}
        self._config = merged
        files = certificate_files(settings)
        self._renewals = Renewals(files.version if files else None)
        self._consumer = confluent_kafka.Consumer(merged, logger=client_log())
        self._thread = ThreadPoolExecutor(1, "kafka-consumer")
        self._positions: dict[Partition, int] = {}
        self._taken: list[Message] = []
        self._fetching: asyncio.Future[list[Message]] | None = None
        self._appended: dict[Partition, int] = {}
        if metrics is not None:
            self._export(metrics, str(config["client.id"]))

    @classmethod
    def assigned(
        cls,
        settings: KafkaSettings,
        topics: Iterable[str | Partition | Keyed],
        start: Start,
        *,
        client_id: str,
        metrics: Metrics | None = None,
    ) -> Consumer:
        """Return a consumer of all partitions of topics, or of single ones, from `start`."""
        config = client_config(settings, client_id)
        # Offsets are explicit: a missing offset is an error, not a silent jump.
        config |= {"group.id": client_id, "auto.offset.reset": "error"}
        return cls(settings, topics, config, start=start, metrics=metrics)

    @classmethod
    def group(
        cls,
        settings: KafkaSettings,
        topics: Iterable[str],
        group_id: str,
        *,
        client_id: str,
        metrics: Metrics | None = None,
    ) -> Consumer:
        """Return a member of a group; a group without offsets starts at the beginning."""
        config = client_config(settings, client_id)
        config |= {"group.id": group_id, "auto.offset.reset": "earliest"}
        return cls(settings, topics, config, start=None, metrics=metrics)

    async def __aenter__(self) -> Consumer:
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def _open(self) -> None:
        names = {_topic_of(item) for item in self._wanted}
        counts = await await_topics(self._consumer, self._settings, names)
        if self._start is None:
            await self._run(lambda: self._consumer.subscribe(list(names), on_revoke=self._revoked))
            return
        partitions: list[Partition] = []
        for item in self._wanted:
            if isinstance(item, str):
                partitions += [(item, number) for number in range(counts[item])]
            elif isinstance(item, Keyed):
                partitions.append((item.topic, murmur2(item.key, counts[item.topic])))
            else:
                partitions.append(item)
        await self.seek(self._start, partitions)

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def positions(self) -> dict[Partition, int]:
        """Return the offset after the last record returned (or the start), by partition."""
        return dict(self._positions)

    async def seek(self, start: Start, partitions: Iterable[Partition] | None = None) -> None:
        """Assign `partitions` (default: unchanged) from `start`; for assigned consumers."""
        chosen = list(partitions) if partitions is not None else list(self._positions)
        self._fetching = None
        self._positions = await retrying(
            lambda: self._submit(lambda: offsets(self._consumer, chosen, start)), "start offsets"
        )
        self._appended.clear()
        assignment = [TopicPartition(*key, offset) for key, offset in self._positions.items()]
        await self._run(lambda: self._consumer.assign(assignment))

    async def ends(self) -> dict[Partition, int]:
        """Return the offset after the last record that Kafka has now, by assigned partition."""
        keys = list(self._positions)
        return await retrying(
            lambda: self._submit(lambda: {key: bounds(self._consumer, key)[1] for key in keys}),
            "end offsets",
        )

    async def batches(
        self, max_messages: int = 500, max_wait: float = 0.0
    ) -> AsyncGenerator[list[Message], None]:
        """Yield batches until cancelled: up to `max_messages` within `max_wait` s of the first.

        Raises:
            DataLoss: A topic, an offset or a permission is missing.
        """
        while True:
            if self._fetching is None:
                await self._renew_if_due()
                self._fetching = self._submit(lambda: self._collect(max_messages, max_wait))
            # A cancelled caller doesn't lose the fetch in progress: the next call receives it.
            fetched = await asyncio.shield(self._fetching)
            self._fetching = None
            if self._failure is not None:
                raise self._failure
            batch = [message for message in fetched if is_record(message)]
            for message in batch:
                key = cast(Partition, (message.topic(), message.partition()))
                self._positions[key] = cast(int, message.offset()) + 1
                self._appended[key] = message.timestamp()[1]
            if batch:
                yield batch

    async def _renew_if_due(self) -> None:
        """Replace the consumer after a certificate renewal and resume at its current offsets.

        A group member leaves the group and rejoins it; uncommitted records are reprocessed.
        """
        version = self._renewals.pending()
        if version is None:
            return
        fresh = confluent_kafka.Consumer(self._config, logger=client_log())
        old, self._consumer = self._consumer, fresh
        await self._run(old.close)
        if self._start is None:
            self._positions.clear()
            names = [_topic_of(item) for item in self._wanted]
            await self._run(lambda: fresh.subscribe(names, on_revoke=self._revoked))
        else:
            assignment = [TopicPartition(*key, offset) for key, offset in self._positions.items()]
            await self._run(lambda: fresh.assign(assignment))
        self._renewals.taken(version)

    async def commit(self) -> None:
        """Commit the offsets of all records returned; call it after the last batch's effect."""
        try:
            await self._run(self._commit)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if cause.code() in _LOST_PARTITION:
                _log.warning("partitions moved before the commit; their new reader repeats them")
                return
            raise Unavailable(
                "COMMIT_FAILED", f"Kafka did not take the commit: {cause.str()}"
            ) from error

    async def close(self) -> None:
        """Leave the group and close the connections."""
        await self._run(self._consumer.close)
        self._thread.shutdown(wait=False)

    def lags(self) -> dict[Partition, int]:
        """Return the records not returned yet, by partition, as of the last fetch; does no I/O."""
        lags: dict[Partition, int] = {}
        for key, position in list(self._positions.items()):
            with contextlib.suppress(KafkaException, RuntimeError):
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*key), cached=True)
                lags[key] = max(0, high - position)
        return lags

    def lag_seconds(self) -> dict[Partition, float]:
        """Return the age of each partition's last record returned, 0 without lag."""
        now = time.time()
        return {
            key: max(0.0, now - self._appended[key] / 1000) if lag else 0.0
            for key, lag in self.lags().items()
            if key in self._appended or not lag
        }

    def _export(self, metrics: Metrics, client: str) -> None:
        def by_partition(read: Callable[[], Mapping[Partition, float]]) -> Read:
            return lambda: {
                (client, topic, str(partition)): value
                for (topic, partition), value in read().items()
            }

        labels = ("client", "topic", "partition")
        metrics.read_gauge(
            "consumer_lag_records", "Records not handed out yet", labels, by_partition(self.lags)
        )
        metrics.read_gauge(
            "consumer_lag_seconds",
            "Age of the newest record handed out while there are newer ones, 0 without lag",
            labels,
            by_partition(self.lag_seconds),
        )

    def _commit(self) -> None:
        # Read on this thread: an earlier fetch may have processed a rebalance.
        done = [TopicPartition(*key, offset) for key, offset in self._positions.items()]
        if done:
            self._consumer.commit(offsets=done, asynchronous=False)

    def _collect(self, max_messages: int, max_wait: float) -> list[Message]:
        first = self._consumer.poll(IDLE_SECONDS)
        if first is None:
            return []
        if max_messages == 1:
            return [first]
        if self._start is not None:
            return [first, *self._consumer.consume(max_messages - 1, max_wait)]
        return self._collect_as_member(first, max_messages, max_wait)

    def _collect_as_member(
        self, first: Message, max_messages: int, max_wait: float
    ) -> list[Message]:
        """Poll record by record, so that a rebalance can be processed between two records.

        `_revoked` then removes the records of partitions that moved to another member. `consume`
        could process a rebalance after it has already taken some of the records.
        """
        taken = self._taken = [first]
        deadline = time.monotonic() + max_wait
        while len(taken) < max_messages:
            message = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                break
            taken.append(message)
        self._taken = []
        return taken

    def _revoked(self, _: object, partitions: list[TopicPartition]) -> None:
        lost = {(partition.topic, partition.partition) for partition in partitions}
        for key in lost:
            self._positions.pop(key, None)
            self._appended.pop(key, None)
        self._taken[:] = [
            message for message in self._taken if (message.topic(), message.partition()) not in lost
        ]

    def _fatal(self, error: KafkaError) -> None:
        self._failure = DataLoss("CONSUMER_FAILED", f"Kafka's consumer failed: {error.str()}")

    def _submit(self, step: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, step)

    async def _run(self, step: Callable[[], T]) -> T:
        return await self._submit(step)


def _topic_of(item: str | Partition | Keyed) -> str:
    if isinstance(item, Keyed):
        return item.topic
    return item if isinstance(item, str) else item[0]
