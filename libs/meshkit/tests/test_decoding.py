"""Schemas and decoding on a real Kafka and registry."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from confluent_kafka import Message as Record
from records import read

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit.consumer import Consumer
from meshkit.decoding import Decoder
from meshkit.errors import FailedPrecondition
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


class Rejections:
    """Keeps what a decoder gives up."""

    def __init__(self) -> None:
        self.records: list[tuple[Record, str, str]] = []

    async def send(self, message: Record, reason: str, detail: str) -> None:
        self.records.append((message, reason, detail))


async def test_undecodable_records_are_given_up_with_a_reason(
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
    async with (
        Producer(kafka, client_id="p") as producer,
        Consumer.assigned(kafka, [TRADES], "end", client_id="c") as consumer,
    ):
        rejections = Rejections()
        decoder = Decoder({TRADES: Trade}, ids, registry, rejections)
        places = {value: await producer.deliver(TRADES, instrument, value) for value in bad}
        await producer.deliver(TRADES, instrument, header + trade.SerializeToString())
        decoded = await decoder.decode(await read(consumer, len(bad) + 1))
    assert [event for _, event in decoded] == [trade]
    assert {record.value(): reason for record, reason, _ in rejections.records} == bad
    for record, _, detail in rejections.records:
        assert (record.partition(), record.offset()) == places[record.value() or b""]
        assert detail


async def test_a_missing_schema_stops_the_start(registry: Registry):
    with pytest.raises(FailedPrecondition, match=r"no subject nowhere\.v1-value"):
        await registry.resolve({"nowhere.v1": Trade})
