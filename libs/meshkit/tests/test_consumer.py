"""Consumers on a real Kafka: where they start, their lag, groups."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from records import MakeTopic, fill, read, read_tail, values

from meshkit.consumer import Consumer, Keyed, Since, Tail
from meshkit.errors import DataLoss
from meshkit.kafka import client_config
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("beginning", [*range(100)]),
        (Tail(5), [95, 96, 97, 98, 99]),
        (Tail(1000), [*range(100)]),
        ({"offset": 42}, [*range(42, 100)]),
    ],
)
async def test_an_assigned_consumer_starts_where_it_is_told(
    kafka: KafkaSettings, make_topic: MakeTopic, start: Any, expected: list[int]
):
    topic = make_topic()
    await fill(kafka, topic, range(100))
    if isinstance(start, dict):
        start = {(topic, 0): start["offset"]}
    async with Consumer.assigned(kafka, [(topic, 0)], start, client_id="c") as consumer:
        assert values(await read(consumer, len(expected), max_messages=7)) == expected


async def test_keyed_consumer_reads_the_partition_of_its_key_only(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic(partitions=8)
    keys = [b"binance.BTC-USDT", "binance.ÄÖÜ-USDT".encode()]
    async with Producer(kafka, client_id="p") as producer:
        for key in keys:
            await producer.produce(topic, key, key)
    for key in keys:
        async with Consumer.assigned(
            kafka, [Keyed(topic, key)], "beginning", client_id="c"
        ) as consumer:
            assert len(consumer.positions) == 1
            assert key in [record.value() for record in await read(consumer, 1)]


async def test_the_end_is_the_end_at_opening(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    await fill(kafka, topic, range(10))
    metrics = Metrics()
    async with Consumer.assigned(kafka, [topic], "end", client_id="c", metrics=metrics) as consumer:
        # What comes between the opening and the first fetch isn't skipped.
        await fill(kafka, topic, range(10, 20))
        assert values(await read(consumer, 10)) == [*range(10, 20)]
        assert consumer.lags() == {(topic, 0): 0}
        lag = {"client": "c", "topic": topic, "partition": "0"}
        assert metrics.registry.get_sample_value("coinmesh_consumer_lag_records", lag) == 0
        assert metrics.registry.get_sample_value("coinmesh_consumer_lag_seconds", lag) == 0


async def test_lag_is_told_in_records_and_in_seconds(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic(message_timestamp_type="CreateTime")
    long_ago = int((time.time() - 3600) * 1000)
    producer = confluent_kafka.Producer(client_config(kafka, "past"))
    for number in range(3):
        producer.produce(topic, str(number), partition=0, timestamp=long_ago)
    assert producer.flush(30) == 0
    metrics = Metrics()
    lag = {"client": "c", "topic": topic, "partition": "0"}
    async with Consumer.assigned(
        kafka, [topic], "beginning", client_id="c", metrics=metrics
    ) as consumer:
        await read(consumer, 1, max_messages=1)
        assert metrics.value("coinmesh_consumer_lag_records", **lag) == 2
        assert 3600 <= metrics.value("coinmesh_consumer_lag_seconds", **lag) < 3700
        await read(consumer, 2)
        assert metrics.value("coinmesh_consumer_lag_seconds", **lag) == 0


async def test_seek_by_time_and_again(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic(message_timestamp_type="LogAppendTime")
    await fill(kafka, topic, range(10))
    (last,) = await read_tail(kafka, topic, Tail(1))
    between = last.timestamp()[1] + 1
    while True:
        async with Producer(kafka, client_id="p") as producer:
            await producer.deliver(topic, "k", b"10")
        (newest,) = await read_tail(kafka, topic, Tail(1))
        if newest.timestamp()[1] >= between:
            break
    async with Consumer.assigned(kafka, [topic], "beginning", client_id="c") as consumer:
        await read(consumer, 5, max_messages=5)
        await consumer.seek(Since(datetime.fromtimestamp(between / 1000, UTC)))
        assert set(values(await read(consumer, 1))) == {10}
        await consumer.seek(Since(datetime(2100, 1, 1, tzinfo=UTC)))
        assert consumer.positions == await consumer.ends()
        await consumer.seek("beginning")
        assert values(await read(consumer, 1, max_messages=1)) == [0]


async def test_a_cancelled_reader_loses_no_record(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    async with Consumer.assigned(kafka, [topic], "beginning", client_id="c") as consumer:
        async with aclosing(consumer.batches()) as batches:
            waiting = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)  # the fetch has begun
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        # The fetch of the cancelled reader may get some of these.
        await fill(kafka, topic, range(10))
        records = await read(consumer, 10)
        assert values(records) == [*range(10)]


async def test_an_offset_that_is_gone_is_an_error(
    kafka: KafkaSettings, make_topic: MakeTopic, admin: AdminClient
):
    topic = make_topic()
    await fill(kafka, topic, range(10))
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(30)
    consumer = Consumer.assigned(kafka, [topic], {(topic, 0): 2}, client_id="c")
    async with consumer:
        with pytest.raises(DataLoss, match=topic):
            await read(consumer, 1)


async def test_a_group_goes_on_after_its_commit(kafka: KafkaSettings, make_topic: MakeTopic):
    topic, group = make_topic(2), uuid.uuid4().hex
    await fill(kafka, topic, range(100), keys=10)

    def member() -> Consumer:
        return Consumer.group(kafka, [topic], group, client_id="c")

    async with member() as consumer:
        first = await read(consumer, 30, max_messages=10)
        await consumer.commit()
        uncommitted = await read(consumer, 10, max_messages=10)
        assert uncommitted
    async with member() as consumer:
        rest = await read(consumer, 100 - len(first))
        await consumer.commit()
    assert sorted(values(first + rest)) == [*range(100)]


async def committed_offsets(kafka: KafkaSettings, group: str) -> dict[int, list[int]]:
    """Every offset that a group committed, in order, by partition of its only topic.

    Kafka keeps them as records of their own: key and value start with a version of 16 bits, strings
    with their length (Kafka's `OffsetCommitKey` and `OffsetCommitValue`).
    """
    commits: dict[int, list[int]] = {}
    topic = "__consumer_offsets"
    async with Consumer.assigned(kafka, [topic], "beginning", client_id="o") as consumer:
        ends = await consumer.ends()
        async with aclosing(consumer.batches()) as batches:
            while any(consumer.positions[key] < end for key, end in ends.items()):
                for record in await anext(batches):
                    key, value = record.key() or b"", record.value()
                    size = int.from_bytes(key[2:4], "big")
                    if key[:2] in (b"\0\0", b"\0\1") and key[4 : 4 + size] == group.encode():
                        assert value is not None
                        partition = int.from_bytes(key[-4:], "big")
                        offset = int.from_bytes(value[2:10], "big")
                        commits.setdefault(partition, []).append(offset)
    return commits


async def test_group_commits_under_rebalances_never_move_backwards(
    kafka: KafkaSettings, make_topic: MakeTopic, until: Until
):
    topic, group = make_topic(4), uuid.uuid4().hex
    unread: set[int] = set()
    readers: set[str] = set()
    stopping = asyncio.Event()

    async def load(keys: list[str]) -> None:
        numbers = itertools.count()
        async with Producer(kafka, client_id="load") as producer:
            while not stopping.is_set():
                for key in keys:
                    unread.add(number := next(numbers))
                    await producer.produce(topic, key, str(number).encode())
                await producer.flush()
                await until(lambda: asyncio.sleep(0, len(unread) < 500))

    async def member(name: str) -> None:
        async with (
            Consumer.group(kafka, [topic], group, client_id=name) as consumer,
            # Batches wait for more records, so that rebalances come amid them.
            aclosing(consumer.batches(max_messages=100_000, max_wait=0.1)) as batches,
        ):
            async for batch in batches:
                readers.add(name)
                unread.difference_update(values(batch))
                await consumer.commit()

    async def what_is_unread_is_read() -> None:
        before = set(unread)
        await until(lambda: asyncio.sleep(0, unread.isdisjoint(before)))

    async def joined(name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(member(name))
        await until(lambda: asyncio.sleep(0, name in readers))
        return task

    async def left(task: asyncio.Task[None]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Its partitions' next owner continues.
        await what_is_unread_is_read()

    keys: list[str] = []
    async with Producer(kafka, client_id="keys") as producer:
        for number in range(20):
            await producer.deliver(topic, key := f"key-{number}", b"0")
            keys.append(key)
    loading = asyncio.create_task(load(keys))
    present = await joined("member-0")
    for number in range(1, 5):
        newcomer = await joined(f"member-{number}")
        await what_is_unread_is_read()
        await left(present)
        present = newcomer
    stopping.set()
    await loading
    await what_is_unread_is_read()
    await left(present)

    commits = await committed_offsets(kafka, group)
    assert set(commits) == {0, 1, 2, 3}
    backwards = {
        partition: (before, after)
        for partition, offsets in commits.items()
        for before, after in itertools.pairwise(offsets)
        if after < before
    }
    assert backwards == {}
