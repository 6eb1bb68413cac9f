"""Reads partitions up to a fixed offset, usually their end at the time of the call.

Committed records only, by assignment: no group is joined and nothing is committed. `read_range` is
for threads and commands, `read_to_end` for an event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaError, Message, TopicPartition

from meshkit.errors import Unavailable
from meshkit.kafka import (
    FETCH_CONFIG,
    Config,
    await_topics,
    client_config,
    client_log,
    is_record,
    retrying,
)
from meshkit.offsets import Partition, Start, offsets
from meshkit.settings import KafkaSettings

T = TypeVar("T")

STALL_SECONDS = 60.0
POLL_SECONDS = 0.25
BATCH = 5_000
_CONFIG: Config = {
    **FETCH_CONFIG,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
}
_EOF = KafkaError._PARTITION_EOF  # pyright: ignore[reportPrivateUsage]


def tail_consumer(
    settings: KafkaSettings, client_id: str, config: Config | None = None
) -> confluent_kafka.Consumer:
    """Create the consumer for `read_range`; `config` adds librdkafka settings."""
    merged = client_config(settings, client_id) | _CONFIG | {"group.id": client_id}
    return confluent_kafka.Consumer(merged | (config or {}), logger=client_log())


def read_range(
    consumer: confluent_kafka.Consumer,
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
    stall_seconds: float = STALL_SECONDS,
) -> Iterator[list[Message]]:
    """Yield the records of each partition from its start up to, and without, its end.

    Offsets without a record (transaction markers, aborted, compacted or expired records) are
    skipped. A batch may be empty: one is yielded at least every `POLL_SECONDS`.

    Args:
        consumer: Created by `tail_consumer`; its assignment is replaced.
        starts: The first offset, by partition.
        ends: The offset after the last one, by partition; at most the partition's end.
        stall_seconds: How long to wait for the next record.

    Raises:
        Unavailable: TAIL_TIMEOUT, Kafka delivered nothing for `stall_seconds`.
        DataLoss: A topic or a permission is missing.
    """
    pending = {key: end for key, end in ends.items() if starts[key] < end}
    consumer.assign([TopicPartition(*key, starts[key]) for key in pending])
    deadline = time.monotonic() + stall_seconds
    while pending:
        if time.monotonic() >= deadline:
            names = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(pending))
            raise Unavailable("TAIL_TIMEOUT", f"the tail of {names} could not be read")
        records: list[Message] = []
        first = consumer.poll(POLL_SECONDS)
        for message in [first, *consumer.consume(BATCH, 0)] if first is not None else []:
            error = message.error()
            is_end = error is not None and error.code() == _EOF
            if not is_end and not is_record(message):
                continue
            deadline = time.monotonic() + stall_seconds
            key = cast(Partition, (message.topic(), message.partition()))
            offset, end = cast(int, message.offset()), pending.get(key, 0)
            if not is_end and starts[key] <= offset < end:
                records.append(message)
            if offset + (not is_end) >= end:
                pending.pop(key, None)
        yield records


async def read_to_end(
    settings: KafkaSettings,
    topic: str,
    start: Start,
    *,
    client_id: str,
    stall_seconds: float = STALL_SECONDS,
) -> AsyncGenerator[list[Message], None]:
    """Yield the records of a topic from `start` to its current end, as `read_range`.

    Waits for Kafka without limit at first; `stall_seconds` applies from the first fetch.

    Raises:
        FailedPrecondition: The topic is missing.
    """
    consumer = tail_consumer(settings, client_id)
    # One thread, so that the consumer is closed after a read whose caller was cancelled.
    thread = ThreadPoolExecutor(1, "kafka-tail")

    def submit(step: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(thread, step)

    async def resolve(position: Start) -> dict[Partition, int]:
        return await retrying(
            lambda: submit(lambda: offsets(consumer, partitions, position)), f"offsets of {topic}"
        )

    try:
        counts = await await_topics(consumer, settings, [topic])
        partitions = [(topic, number) for number in range(counts[topic])]
        batches = read_range(consumer, await resolve(start), await resolve("end"), stall_seconds)
        while (batch := await submit(lambda: next(batches, None))) is not None:
            if batch:
                yield batch
    finally:
        await submit(consumer.close)
        thread.shutdown(wait=False)
