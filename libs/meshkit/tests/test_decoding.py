"""Schemas, decoding and dead letters on a real Kafka and registry."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from records import read

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_DEAD_LETTER, EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.consumer import Consumer
from meshkit.decoding import Decoder
from meshkit.dlq import DeadLetters
from meshkit.errors import FailedPrecondition
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import Registry
from meshkit.settings import KafkaSettings, RegistrySettings

pytestmark = pytest.mark.component


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


async def test_record_near_the_size_limit_becomes_a_truncated_dead_letter(
    mesh: Any, kafka: KafkaSettings, registry: Registry
):
    ids = await registry.resolve({TRADES: Trade, DEAD_LETTERS: DeadLetter})
    value = b"\1".ljust(topics.MAX_MESSAGE_BYTES - 1_000, b"\0")
    instrument = f"test.{uuid.uuid4().hex}"
    async with (
        Producer(kafka, client_id="p") as producer,
        Consumer.assigned(kafka, [TRADES], "end", client_id="c") as consumer,
        Consumer.assigned(kafka, [DEAD_LETTERS], "end", client_id="d") as letters,
    ):
        dead_letters = DeadLetters(producer, ids, reporter="gateway", metrics=Metrics())
        decoder = Decoder({TRADES: Trade}, ids, registry, dead_letters)
        await producer.deliver(TRADES, instrument, value)
        assert await decoder.decode(await read(consumer, 1)) == []
        (record,) = await read(letters, 1)
    letter = DeadLetter.FromString((record.value() or b"")[6:])
    assert letter.truncated
    assert letter.value == value[: len(letter.value)]
    assert len(letter.value) > len(value) * 0.8


async def test_a_missing_schema_stops_the_start(registry: Registry):
    with pytest.raises(FailedPrecondition, match=r"no subject nowhere\.v1-value"):
        await registry.resolve({"nowhere.v1": Trade})
