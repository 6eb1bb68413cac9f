"""The Kafka producer: idempotent, acknowledged by all replicas, never silent about a loss.

Accepted records are retried until Kafka acknowledges them, however long an outage lasts; a full
queue makes `produce` wait, which is the backpressure. A record that Kafka rejects permanently stops
the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from coinmesh_contracts import topics
from meshkit import kafka, rotation
from meshkit.errors import DataLoss, InvalidArgument, Unavailable
from meshkit.kafka import Config, OutageReporter, await_topics, client_config, client_log
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from meshkit.rotation import Renewals
from meshkit.settings import KafkaSettings
from meshkit.tls import certificate_files

_log = logging.getLogger(__name__)

Headers = list[tuple[str, str | bytes | None]]
Key = str | bytes | None
OnAcked = Callable[[str, int, int], None]
OnDelivery = Callable[[KafkaError | None, Any], None]

POLL_SECONDS = 0.1
ROOM_SECONDS = 1.0
FLUSH_SECONDS = 10.0
FLUSH_LOOK_SECONDS = 0.002
# Time in which the queue must become empty before a renewed certificate can be used.
RENEWAL_SECONDS = 2.0
PRODUCER_CONFIG: Config = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    # Java's default; librdkafka's differs, and a key must map to one partition for all writers.
    "partitioner": "murmur2_random",
    "linger.ms": 5,
    # Accepted records don't expire; the bounded queue limits memory during an outage.
    "message.timeout.ms": 0,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 64 << 10,
    "message.max.bytes": topics.MAX_MESSAGE_BYTES,
}


class Producer(Resource):
    """A producer for one event loop; use it as an asynchronous context manager.

    As a resource of a service it stops the service after a record was rejected.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        client_id: str,
        metrics: Metrics | None = None,
        on_acked: OnAcked | None = None,
        config: Config | None = None,
    ) -> None:
        """Create the client; nothing is sent yet, and Kafka needn't be reachable.

        Args:
            settings: Kafka connection.
            client_id: The service's name.
            metrics: Registers the producer's metrics.
            on_acked: Called with topic, partition and offset of each acknowledged record, in order
                of each partition; runs in the producer's thread, must be quick and must not raise.
            config: librdkafka settings that differ from `PRODUCER_CONFIG`.
        """
        self._settings = settings
        self._on_acked = on_acked
        self._acked: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._waits = 0
        self._failure: DataLoss | None = None
        reporter = OutageReporter(settings.kafka_bootstrap_servers, self._fatal)
        merged: Config = {
            **client_config(settings, client_id),
            **PRODUCER_CONFIG,
            "on_delivery": self._delivered,
            "error_cb": reporter,
            **(config or {}),
        }
        self._config = merged
        files = certificate_files(settings)
        self._renewals = Renewals(files.version if files else None)
        self._producer = confluent_kafka.Producer(merged, logger=client_log())
        self._send = self._producer.produce
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting = False
        self._renewing: asyncio.Task[None] | None = None
        if metrics is not None:
            self._export(metrics, client_id)

    async def __aenter__(self) -> Producer:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._failed = asyncio.Event()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()
        self._renewing = asyncio.create_task(self._follow_renewals(), name="kafka certificate")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def check_topics(
        self, topics: Iterable[str], wait_seconds: float | None = None
    ) -> dict[str, int]:
        """Wait for Kafka and return partition counts; FailedPrecondition for a missing topic."""
        return await await_topics(self._producer, self._settings, topics, wait_seconds)

    async def is_ready(self) -> bool:
        """Return whether Kafka is reachable and no record was rejected."""
        return self._failure is None and await kafka.is_reachable(self._producer)

    def produce_nowait(
        self,
        topic: str,
        key: Key,
        value: bytes | None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue a record; `on_delivery` is called with its result in the producer's thread.

        Raises:
            BufferError: The queue is full.
            InvalidArgument: The record is larger than the producer may send.
            DataLoss: An earlier record was rejected; the producer can't be used any more.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if on_delivery is None:
                self._send(topic, value, key, headers=headers)
            else:
                told = _both(self._delivered, on_delivery)
                self._send(topic, value, key, headers=headers, on_delivery=told)
        except KafkaException as error:
            raise _refusal(topic, error) from error

    async def produce(
        self,
        topic: str,
        key: Key,
        value: bytes | None,
        headers: Headers | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue a record, waiting only while the queue is full; errors as `produce_nowait`."""
        while True:
            try:
                self.produce_nowait(topic, key, value, headers, on_delivery)
                return
            except BufferError:
                await self._wait_for_room()

    async def deliver(
        self, topic: str, key: Key, value: bytes | None, headers: Headers | None = None
    ) -> tuple[int, int]:
        """Send a record, wait for its acknowledgement and return its partition and offset.

        Raises:
            InvalidArgument: The record is too large.
            DataLoss: Kafka rejected it.
        """
        done: asyncio.Future[tuple[int, int]] = self._loop.create_future()

        def settle(error: KafkaError | None, message: Any) -> None:
            if done.cancelled():
                return
            if error is not None and self._failure is not None:
                done.set_exception(self._failure)
            else:
                done.set_result((message.partition(), message.offset()))

        def delivered(error: KafkaError | None, message: Any) -> None:
            self._delivered(error, message)
            self._call(lambda: settle(error, message))

        while self._failure is None:
            try:
                self._send(topic, value, key, headers=headers, on_delivery=delivered)
                return await done
            except BufferError:
                await self._wait_for_room()
            except KafkaException as error:
                raise _refusal(topic, error) from error
        raise self._failure

    async def flush(self, timeout: float = FLUSH_SECONDS) -> None:  # noqa: ASYNC109
        """Wait until all queued records are acknowledged; raise Unavailable at the timeout."""
        left = await self._left_after(timeout)
        if self._failure is not None:
            raise self._failure
        if left:
            raise Unavailable(
                "NOT_DELIVERED",
                f"Kafka at {self._settings.kafka_bootstrap_servers} did not take {left} records "
                f"within {timeout:g} s",
                records=left,
            )

    async def _left_after(self, seconds: float) -> int:
        """Wait up to `seconds` for all acknowledgements; return the number of missing ones."""
        # librdkafka's own flush would process reports in a second thread: out of order, miscounted.
        end = self._loop.time() + seconds
        while left := len(self._producer):
            if self._failure is not None or self._loop.time() >= end:
                break
            await asyncio.sleep(FLUSH_LOOK_SECONDS)
        return left

    async def run(self) -> None:
        """Wait until cancelled; raise DataLoss once a record is rejected permanently."""
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def renew_if_due(self) -> bool:
        """Replace the producer after a certificate renewal; return whether that was done.

        All queued records are acknowledged before the new producer accepts one, so that the order
        of each key is kept; meanwhile the queue counts as full. If Kafka doesn't acknowledge them
        in time, the old producer is kept and the next check retries.
        """
        version = self._renewals.pending()
        if version is None or self._failure is not None:
            return False
        fresh = confluent_kafka.Producer(self._config, logger=client_log())
        self._send = _full
        try:
            left = await self._left_after(RENEWAL_SECONDS)
            if left == 0:
                self._producer = fresh
                self._renewals.taken(version)
        finally:
            self._send = self._producer.produce
            self._room.set()
        return left == 0

    async def _follow_renewals(self) -> None:
        while True:
            await asyncio.sleep(rotation.CHECK_SECONDS)
            try:
                await self.renew_if_due()
            except KafkaException:
                _log.exception("can't use the renewed certificate; trying again")

    async def close(self) -> None:
        """Flush and stop; raise Unavailable if records remain (they are then lost)."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        try:
            await self.flush()
        finally:
            self._stopped.set()
            if self._thread is not None:
                await asyncio.to_thread(self._thread.join)
                self._thread = None

    def __len__(self) -> int:
        """Return the number of records queued or in flight."""
        return len(self._producer)

    def _export(self, metrics: Metrics, client: str) -> None:
        def by_topic(counts: Counter[str]) -> dict[tuple[str, ...], float]:
            # A topic is exported after its first result: a counter that starts at 1 shows no
            # increase.
            known = {**self._acked.copy(), **self._refused.copy()}
            return {(client, topic): counts[topic] for topic in known}

        labels = ("client", "topic")
        metrics.read_counter(
            "producer_acked",
            "Records that Kafka acknowledged",
            labels,
            lambda: by_topic(self._acked),
        )
        metrics.read_counter(
            "producer_refused",
            "Records that Kafka refused for good",
            labels,
            lambda: by_topic(self._refused),
        )
        metrics.read_counter(
            "producer_waits",
            "How often a caller waited for room",
            ("client",),
            lambda: {(client,): self._waits},
        )
        metrics.read_gauge(
            "producer_queue_records",
            "Records queued or in flight",
            ("client",),
            lambda: {(client,): len(self._producer)},
        )

    async def _wait_for_room(self) -> None:
        self._waits += 1
        self._waiting = True
        self._room.clear()
        # Room signalled before `_waiting` was set is missed; hence the time limit.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_SECONDS):
                await self._room.wait()

    def _poll(self) -> None:
        while not self._stopped.is_set():
            try:
                served = self._producer.poll(POLL_SECONDS)
            except Exception as error:
                _log.exception("a delivery callback failed")
                self._fail(DataLoss("CALLBACK_FAILED", f"a delivery callback failed: {error}"))
                continue
            if served and self._waiting:
                self._waiting = False
                self._call(self._room.set)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        topic = message.topic()
        if error is not None:
            self._refused[topic] += 1
            self._fail(
                DataLoss(
                    "NOT_DELIVERED",
                    f"Kafka refused a record for {topic}: {error.str()}",
                    topic=topic,
                    code=error.name(),
                )
            )
            return
        self._acked[topic] += 1
        if self._on_acked is not None:
            self._on_acked(topic, message.partition(), message.offset())

    def _fatal(self, error: KafkaError) -> None:
        self._fail(DataLoss("PRODUCER_FAILED", f"Kafka's producer failed: {error.str()}"))

    def _fail(self, failure: DataLoss) -> None:
        if self._failure is None:
            _log.error("%s", failure.message, extra={"reason": failure.reason})
            self._failure = failure
        self._call(self._failed.set)
        self._call(self._room.set)

    def _call(self, step: Callable[[], None]) -> None:
        # The loop may be closed when the last reports arrive at process exit.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(step)


def _both(first: OnDelivery, second: OnDelivery) -> OnDelivery:
    def told(error: KafkaError | None, message: Any) -> None:
        first(error, message)
        second(error, message)

    return told


def _full(*_: Any, **__: Any) -> None:
    """Replace `produce` while the producer is being replaced."""
    raise BufferError("the producer is being replaced")


def _refusal(topic: str, error: KafkaException) -> Exception:
    cause: KafkaError = error.args[0]
    if cause.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        limit = PRODUCER_CONFIG["message.max.bytes"]
        return InvalidArgument(
            "RECORD_TOO_LARGE", f"a record for {topic} exceeds {limit} bytes", topic=topic
        )
    return DataLoss(
        "NOT_ACCEPTED", f"the producer can't take a record for {topic}: {cause.str()}", topic=topic
    )
