"""Consumers on a real Kafka: where they start, their lag, groups."""

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest
from oldconsumer import Consumer as OldConsumer
from records import MakeTopic, values

from meshkit.consumer import Consumer
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


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
            OldConsumer.group(kafka, [topic], group, client_id=name) as consumer,
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
            partition, _ = await producer.deliver(topic, f"key-{number}", b"0")
            # The sticky assignor gives partitions 0 and 1 to the second member.
            keys += [f"key-{number}"] if partition < 2 else []
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
    assert {0, 1} <= set(commits)
    backwards = {
        partition: (before, after)
        for partition, offsets in commits.items()
        for before, after in itertools.pairwise(offsets)
        if after < before
    }
    assert backwards == {}
