"""Producer, consumers, decoding and dead letters on a real Kafka and registry."""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_DEAD_LETTER, EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.backoff import Backoff
from meshkit.consumer import Consumer, Since, Tail, read_tail, read_tails
from meshkit.decoding import Decoder
from meshkit.dlq import DeadLetters
from meshkit.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from meshkit.kafka import client_config, client_log, retrying
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import Registry
from meshkit.settings import KafkaSettings, RegistrySettings

pytestmark = pytest.mark.component

MakeTopic = Callable[..., str]


@pytest.fixture
def kafka(mesh: Any) -> KafkaSettings:
    mesh.require("kafka")
    return KafkaSettings(
        kafka_bootstrap_servers=mesh.endpoints["kafka"], tls_dir=mesh.home.tls / "deploy"
    )


@pytest.fixture
def admin(kafka: KafkaSettings) -> AdminClient:
    return AdminClient(client_config(kafka, "test"), logger=client_log())


@pytest.fixture
def make_topic(admin: AdminClient) -> Iterator[MakeTopic]:
    made: list[str] = []

    def make(partitions: int = 1, **config: str) -> str:
        name = f"test.{uuid.uuid4().hex}"
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(name, partitions, 1, config={**dotted})
        for future in admin.create_topics([new]).values():
            future.result(30)
        made.append(name)
        return name

    yield make
    if made:
        admin.delete_topics(made)


async def read(consumer: Consumer, count: int, **how: Any) -> list[Message]:
    """The next `count` records, or somewhat more."""
    records: list[Message] = []
    async with aclosing(consumer.batches(**how)) as batches:
        async for batch in batches:
            records += batch
            if len(records) >= count:
                break
    return records


def values(records: list[Message]) -> list[int]:
    return [int(record.value() or b"") for record in records]


async def fill(kafka: KafkaSettings, topic: str, numbers: range, keys: int = 1) -> None:
    async with Producer(kafka, client_id="fill") as producer:
        for number in numbers:
            await producer.produce(topic, f"key-{number % keys}", str(number).encode())


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


async def test_records_arrive_in_order_and_are_reported(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic = make_topic(4)
    metrics = Metrics()
    acked: list[tuple[str, int, int]] = []
    async with Producer(
        kafka, client_id="p", metrics=metrics, on_acked=lambda *place: acked.append(place)
    ) as producer:
        assert await producer.check_topics(name for name in [topic]) == {topic: 4}
        for number in range(2000):
            await producer.produce(topic, f"key-{number % 20}", str(number).encode())
        await producer.flush()
        assert len(producer) == 0
    assert metrics.value("coinmesh_producer_acked_total", client="p", topic=topic) == 2000
    assert len(set(acked)) == 2000
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
    async with Producer(kafka, client_id="p", config=small) as producer:
        with pytest.raises(BufferError):  # noqa: PT012 - some record finds no room
            for number in range(1000):
                producer.produce_nowait(topic, "k", str(number).encode())
        await producer.flush()
        before = producer.acked
        await asyncio.gather(*(producer.produce(topic, "k", b"0") for _ in range(500)))
        await producer.flush()
        assert producer.acked == before + 500


async def test_deliver_returns_the_place(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    async with Producer(kafka, client_id="p") as producer:
        places = [await producer.deliver(topic, None, b"x", [("h", b"1")]) for _ in range(3)]
    assert places == [(0, 0), (0, 1), (0, 2)]
    (record,) = await read_tail(kafka, topic, 0, 1, client_id="r")
    assert (record.key(), record.headers()) == (None, [("h", b"1")])


async def test_an_outage_at_start_and_a_kill_in_mid_run_lose_and_repeat_nothing(
    mesh: Any, kafka: KafkaSettings, make_topic: MakeTopic, caplog: pytest.LogCaptureFixture
):
    topic = make_topic(4)
    broker = mesh.component("kafka")
    await asyncio.to_thread(broker.stop)
    count = 30_000
    small = {"queue.buffering.max.messages": 1000}
    async with Producer(kafka, client_id="p", config=small) as producer:

        async def feed() -> None:
            for number in range(count):
                await producer.produce(topic, f"key-{number % 50}", str(number).encode())

        assert not await producer.is_reachable()
        feeding = asyncio.create_task(feed())
        checking = asyncio.create_task(producer.check_topics([topic]))
        while "doesn't answer; retrying" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert producer.acked == 0
        await asyncio.to_thread(broker.start)
        assert await checking == {topic: 4}
        while producer.acked < count // 10:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.to_thread(broker.kill)
        await feeding
        await asyncio.to_thread(broker.wait_ready)
        await producer.flush(120)
        assert producer.acked == count
        assert await producer.is_reachable()
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
            watching = asyncio.create_task(producer.watch())
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
    (last,) = await read_tail(kafka, topic, 0, 1, client_id="r")
    between = last.timestamp()[1] + 1
    while True:
        async with Producer(kafka, client_id="p") as producer:
            await producer.deliver(topic, "k", b"10")
        (newest,) = await read_tail(kafka, topic, 0, 1, client_id="r")
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


async def test_tails_of_many_partitions(
    kafka: KafkaSettings, make_topic: MakeTopic, admin: AdminClient
):
    full, empty, cut = make_topic(2), make_topic(), make_topic()
    await fill(kafka, full, range(100), keys=10)
    await fill(kafka, cut, range(10))
    for future in admin.delete_records([TopicPartition(cut, 0, 8)]).values():
        future.result(30)
    wanted = {(full, 0): 3, (full, 1): 0, (empty, 0): 5, (cut, 0): 5}
    tails = await read_tails(kafka, wanted, client_id="r")
    assert {key: len(records) for key, records in tails.items()} == {
        (full, 0): 3,
        (full, 1): 0,
        (empty, 0): 0,
        (cut, 0): 2,
    }
    offsets = [record.offset() for record in tails[full, 0]]
    assert offsets == [*range(offsets[0] or 0, (offsets[0] or 0) + 3)]


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


async def test_a_group_rebalances_without_losing_records(
    kafka: KafkaSettings, make_topic: MakeTopic
):
    topic, group = make_topic(4), uuid.uuid4().hex
    seen: set[int] = set()
    complete = asyncio.Event()

    async def member() -> None:
        async with (
            Consumer.group(kafka, [topic], group, client_id="c") as consumer,
            aclosing(consumer.batches(max_messages=20)) as batches,
        ):
            async for batch in batches:
                seen.update(values(batch))
                await consumer.commit()
                if len(seen) == 2000:
                    complete.set()

    first = asyncio.create_task(member())
    await fill(kafka, topic, range(1000), keys=40)
    second = asyncio.create_task(member())
    await fill(kafka, topic, range(1000, 2000), keys=40)
    done = asyncio.create_task(complete.wait())
    await asyncio.wait([first, second, done], return_when=asyncio.FIRST_COMPLETED)
    for task in (first, second):
        assert not task.done() or task.exception() is None
        task.cancel()
    await asyncio.gather(first, second, done, return_exceptions=True)
    assert seen == set(range(2000))


EVENT_TOPICS = {topic.name: topic.message for topic in topics.ALL if topic.message is not None}
TRADES, DEAD_LETTERS = topics.TRADES.name, topics.DEAD_LETTERS.name


@pytest.fixture
async def registry(mesh: Any) -> AsyncIterator[Registry]:
    mesh.require("schemas", "topics")
    settings = RegistrySettings(
        schema_registry_url=mesh.endpoints["registry"], tls_dir=mesh.home.tls / "deploy"
    )
    client = Registry(settings)
    yield client
    client.close()


async def test_the_deployed_schemas_are_those_of_this_build(
    registry: Registry, caplog: pytest.LogCaptureFixture
):
    ids = await registry.resolve(EVENT_TOPICS)
    assert set(ids.ids) == set(EVENT_TOPICS)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert await registry.accepts(TRADES, ids.ids[TRADES])
    assert not await registry.accepts(TRADES, ids.ids[DEAD_LETTERS])
    assert not await registry.accepts(TRADES, 2**31 - 1)


async def test_what_cannot_be_decoded_becomes_a_dead_letter(
    mesh: Any, kafka: KafkaSettings, registry: Registry
):
    ids = await registry.resolve({TRADES: Trade, DEAD_LETTERS: DeadLetter})
    header = ids.header(TRADES)
    trade = Trade(event_id="e", type=EVENT_TYPE_TRADE, trade_id=7)
    foreign = b"\0" + ids.ids[DEAD_LETTERS].to_bytes(4, "big") + b"\0"
    bad = {
        b"": "NOT_FRAMED",
        b"\1garbage": "BAD_MAGIC",
        foreign + b"": "UNKNOWN_SCHEMA_ID",
        b"\0\x7f\xff\xff\xff\0": "UNKNOWN_SCHEMA_ID",
        header + b"\xff\xff\xff": "BAD_PROTOBUF",
        header[:5] + b"\2": "BAD_MESSAGE_INDEX",
    }
    instrument = f"test.{uuid.uuid4().hex}"
    metrics = Metrics()
    async with (
        Producer(kafka, client_id="p") as producer,
        Consumer.assigned(kafka, [TRADES], "end", client_id="c") as consumer,
        Consumer.assigned(kafka, [DEAD_LETTERS], "end", client_id="d") as letters,
    ):
        dead_letters = DeadLetters(producer, ids, reporter="gateway", metrics=metrics)
        decoder = Decoder({TRADES: Trade}, ids, registry, dead_letters)
        places = {value: await producer.deliver(TRADES, instrument, value) for value in bad}
        await producer.deliver(TRADES, instrument, header + trade.SerializeToString())
        decoded = await decoder.decode(await read(consumer, len(bad) + 1))
        assert [event for _, event in decoded] == [trade]
        written = [
            DeadLetter.FromString((record.value() or b"")[6:])
            for record in await read(letters, len(bad))
        ]
    assert {letter.value: letter.reason for letter in written} == bad
    for letter in written:
        partition, offset = places[letter.value]
        assert letter.event_id == f"dlq:{TRADES}:{partition}:{offset}"
        assert (letter.origin_topic, letter.origin_partition) == (TRADES, partition)
        assert (letter.origin_offset, letter.key) == (offset, instrument.encode())
        assert (letter.instrument, letter.reporter) == (instrument, "gateway")
        assert letter.type == EVENT_TYPE_DEAD_LETTER
        assert letter.detail
    assert metrics.value("coinmesh_dead_letters_total", topic=TRADES, reason="BAD_MAGIC") == 1


async def test_input_without_a_topic_becomes_a_dead_letter(
    mesh: Any, kafka: KafkaSettings, registry: Registry
):
    ids = await registry.resolve({DEAD_LETTERS: DeadLetter})
    connection = f"binance/{uuid.uuid4().hex}/1"
    async with (
        Producer(kafka, client_id="p") as producer,
        Consumer.assigned(kafka, [DEAD_LETTERS], "end", client_id="d") as letters,
    ):
        dead_letters = DeadLetters(producer, ids, reporter="collector", metrics=Metrics())
        await dead_letters.send_input(
            connection=connection,
            sequence=9,
            receive_time=123,
            value=b"{not json",
            reason="BAD_JSON",
            detail="line 1\nline 2",
        )
        (record,) = await read(letters, 1)
    letter = DeadLetter.FromString((record.value() or b"")[6:])
    assert record.key() == connection.encode()
    assert letter.event_id == f"dlq:{connection}:9"
    assert (letter.origin_topic, letter.origin_partition, letter.origin_offset) == ("", -1, -1)
    assert (letter.receive_time, letter.detail) == (123, "line 1 line 2")


async def test_a_missing_schema_stops_the_start(registry: Registry):
    with pytest.raises(FailedPrecondition, match=r"no subject nowhere\.v1-value"):
        await registry.resolve({"nowhere.v1": Trade})
