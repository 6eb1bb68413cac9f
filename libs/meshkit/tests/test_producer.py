"""The producer on a real Kafka: order, outages, renewals, records that are refused."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from records import MakeTopic, read, read_tail

from meshkit.backoff import Backoff
from meshkit.consumer import Consumer, Tail
from meshkit.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from meshkit.kafka import retrying
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component


async def test_renewals_cost_no_record_and_no_order(
    kafka: KafkaSettings, make_topic: MakeTopic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Producer and consumer go on with new clients; each key's records stay in order, each once."""
    monkeypatch.setattr("meshkit.rotation.CHECK_SECONDS", 0.02)
    topic, tls_dir = make_topic(4), tmp_path / "tls"
    assert kafka.tls_dir is not None
    files = kafka.tls_dir / "current"

    def renew(number: int) -> None:
        shutil.copytree(files, tls_dir / str(number))
        link = tls_dir / "next"
        link.symlink_to(str(number))
        link.rename(tls_dir / "current")

    renew(0)
    ours = kafka.model_copy(update={"tls_dir": tls_dir})
    clients: set[int] = set()
    read_back: list[Message] = []
    count, renewals = 6000, 3

    async def consume() -> None:
        async with (
            Consumer.assigned(ours, [topic], "beginning", client_id="c") as consumer,
            aclosing(consumer.batches()) as batches,
        ):
            async for batch in batches:
                clients.add(id(consumer._consumer))  # pyright: ignore[reportPrivateUsage]
                read_back.extend(batch)
                if len(read_back) == count:
                    return

    reading = asyncio.create_task(consume())
    async with Producer(ours, client_id="p") as producer:
        first = producer._producer  # pyright: ignore[reportPrivateUsage]
        for number in range(count):
            await producer.produce(topic, f"key-{number % 7}", str(number).encode())
            if number % (count // renewals) == count // renewals // 2:
                renew(1 + number)
            if number % 20 == 0:
                await asyncio.sleep(0.001)
        assert producer._producer is not first  # pyright: ignore[reportPrivateUsage]
    async with asyncio.timeout(60):
        await reading
    assert len(clients) > 1
    by_key: dict[bytes, list[int]] = {}
    for record in read_back:
        key, value = record.key(), record.value()
        assert isinstance(key, bytes)
        by_key.setdefault(key, []).append(int(value or b""))
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sorted(n for numbers in by_key.values() for n in numbers) == list(range(count))


def collected(acked: list[tuple[str, int, int]]) -> Callable[[str, int, int], None]:
    """A callback that appends each acknowledged record's place."""
    return lambda topic, partition, offset: acked.append((topic, partition, offset))


async def test_records_arrive_in_order_and_are_reported(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic(4)
    metrics = Metrics()
    acked: list[tuple[str, int, int]] = []
    threads: set[int] = set()

    def keep(*place: Any) -> None:
        acked.append(place)
        threads.add(threading.get_ident())

    async with Producer(kafka, client_id="p", metrics=metrics, on_acked=keep) as producer:
        assert await producer.check_topics(name for name in [topic]) == {topic: 4}
        for number in range(2000):
            await producer.produce(topic, f"key-{number % 20}", str(number).encode())
        await producer.flush()
        assert len(producer) == 0
    assert metrics.value("coinmesh_producer_acked_total", client="p", topic=topic) == 2000
    assert len(set(acked)) == 2000
    assert len(threads) == 1
    by_partition: dict[int, list[int]] = {}
    for _, partition, offset in acked:
        by_partition.setdefault(partition, []).append(offset)
    assert all(offsets == sorted(offsets) for offsets in by_partition.values())

    by_key: dict[bytes, list[int]] = {}
    async with Consumer.assigned(kafka, [topic], "beginning", client_id="c") as consumer:
        for record in await read(consumer, 2000):
            by_key.setdefault(record.key() or b"", []).append(int(record.value() or b""))
        assert consumer.positions == await consumer.ends()
    assert sum(map(len, by_key.values())) == 2000
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


async def test_a_full_queue_makes_the_caller_wait_and_loses_nothing(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic()
    small = {"queue.buffering.max.messages": 50}
    acked: list[tuple[str, int, int]] = []
    async with Producer(kafka, client_id="p", config=small, on_acked=collected(acked)) as producer:
        with pytest.raises(BufferError):  # noqa: PT012 - some record finds no room
            for number in range(1000):
                producer.produce_nowait(topic, "k", str(number).encode())
        await producer.flush()
        before = len(acked)
        await asyncio.gather(*(producer.produce(topic, "k", b"0") for _ in range(500)))
        await producer.flush()
        assert len(acked) == before + 500


async def test_deliver_returns_the_place(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    async with Producer(kafka, client_id="p") as producer:
        places = [await producer.deliver(topic, None, b"x", [("h", b"1")]) for _ in range(3)]
    assert places == [(0, 0), (0, 1), (0, 2)]
    (record,) = await read_tail(kafka, topic, Tail(1))
    assert (record.key(), record.headers()) == (None, [("h", b"1")])


async def test_an_outage_at_start_and_a_kill_in_mid_run_lose_and_repeat_nothing(
    mesh: Any, kafka: KafkaSettings, make_topic: MakeTopic, caplog: pytest.LogCaptureFixture
):
    topic = make_topic(4)
    broker = mesh.component("kafka")
    await asyncio.to_thread(broker.stop)
    count = 30_000
    small = {"queue.buffering.max.messages": 1000}
    acked: list[tuple[str, int, int]] = []
    async with Producer(kafka, client_id="p", config=small, on_acked=collected(acked)) as producer:

        async def feed() -> None:
            for number in range(count):
                await producer.produce(topic, f"key-{number % 50}", str(number).encode())

        assert not await producer.is_ready()
        feeding = asyncio.create_task(feed())
        checking = asyncio.create_task(producer.check_topics([topic]))
        while "doesn't answer; retrying" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert len(acked) == 0
        await asyncio.to_thread(broker.start)
        assert await checking == {topic: 4}
        while len(acked) < count // 10:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.to_thread(broker.kill)
        await feeding
        await asyncio.to_thread(broker.wait_ready)
        await producer.flush(120)
        assert len(acked) == count
        assert await producer.is_ready()
    by_key: dict[bytes, list[int]] = {}
    async with Consumer.assigned(kafka, [topic], "beginning", client_id="c") as consumer:
        for record in await read(consumer, count):
            by_key.setdefault(record.key() or b"", []).append(int(record.value() or b""))
    assert sorted(number for numbers in by_key.values() for number in numbers) == [*range(count)]
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


async def test_a_record_that_kafka_refuses_is_never_silent(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic(max_message_bytes="1000")
    producer = Producer(kafka, client_id="p", config={"compression.type": "none"})
    with pytest.raises(DataLoss):  # noqa: PT012 - leaving the producer raises too
        async with producer:
            watching = asyncio.create_task(producer.run())
            await producer.produce(topic, "k", b"x" * 5000)
            with pytest.raises(DataLoss, match=topic):
                await watching
            with pytest.raises(DataLoss, match=topic):
                await producer.produce(topic, "k", b"small")
            with pytest.raises(DataLoss, match=topic):
                await producer.deliver(topic, "k", b"small")


async def test_a_record_too_large_for_the_producer_is_the_callers_error(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic()
    async with Producer(kafka, client_id="p") as producer:
        with pytest.raises(InvalidArgument, match=topic):
            await producer.produce(topic, "k", b"x" * (5 << 20))
        with pytest.raises(InvalidArgument, match=topic):
            await producer.deliver(topic, "k", b"x" * (5 << 20))
        assert await producer.deliver(topic, "k", b"fits") == (0, 0)


async def test_a_missing_topic_is_named(kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("meshkit.kafka.MISSING_SECONDS", 0.3)
    async with Producer(kafka, client_id="p") as producer:
        with pytest.raises(FailedPrecondition, match=r"no topic nowhere\.v1") as caught:
            await producer.check_topics(["nowhere.v1"])
    assert "coinmesh deploy topics" in caught.value.message
    with pytest.raises(FailedPrecondition, match=r"nowhere\.v1"):
        async with Consumer.assigned(kafka, ["nowhere.v1"], "end", client_id="c"):
            pass


async def test_an_unreachable_kafka_is_named_when_time_is_up(unused_tcp_port: int):
    nowhere = KafkaSettings(kafka_bootstrap_servers=f"127.0.0.1:{unused_tcp_port}")
    producer = Producer(nowhere, client_id="p")
    with pytest.raises(Unavailable, match=str(unused_tcp_port)):
        await producer.check_topics(["x"], wait_seconds=0)


async def test_a_question_is_repeated_while_kafka_has_no_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("meshkit.kafka.Backoff", lambda **how: Backoff(0.001, 0.001, limit=2))
    left = 2

    async def ask() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return "answer"

    assert await retrying(ask, "offsets") == "answer"
    assert caplog.text.count("can't read offsets") == 2
    left = 3
    with pytest.raises(Unavailable, match="can't read offsets"):
        await retrying(ask, "offsets")
