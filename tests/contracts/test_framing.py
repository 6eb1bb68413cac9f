"""Framing is Confluent's: the client library's own serializer and deserializer agree with ours."""

import pytest
from confluent_kafka.schema_registry._sync.mock_schema_registry_client import (
    MockSchemaRegistryClient,
)
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import trade_pb2

CARRIED = [topic for topic in topics.ALL if topic.message is not None]


def filled(message: type[Message]) -> Message:
    """A message with something in the first field."""
    return message(event_id="trade:1", metadata={"k": "ü"})


def deserialize(topic: topics.Topic, value: bytes) -> Message:
    # Without a registry's client: it asks for a form of the schema that registered text lacks.
    deserializer = ProtobufDeserializer(topic.message, {}, None)
    return deserializer(value, SerializationContext(topic.name, MessageField.VALUE))


@pytest.mark.parametrize("topic", CARRIED, ids=lambda topic: topic.name)
def test_the_clients_deserializer_reads_what_we_write(topic: topics.Topic) -> None:
    event = filled(topic.message)
    value = framing.header(7) + event.SerializeToString()
    assert deserialize(topic, value) == event


@given(
    schema_id=st.integers(1, (1 << 31) - 1),
    trade_id=st.integers(0, (1 << 64) - 1),
    units=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_any_schema_id_and_values_are_read(schema_id: int, trade_id: int, units: int) -> None:
    event = trade_pb2.Trade(trade_id=trade_id, price_units=units)
    value = framing.header(schema_id) + event.SerializeToString()
    assert deserialize(topics.TRADES, value) == event


@pytest.mark.parametrize("topic", CARRIED, ids=lambda topic: topic.name)
def test_we_read_what_the_clients_serializer_writes(topic: topics.Topic) -> None:
    registry = MockSchemaRegistryClient({"url": "mock://"})
    serializer = ProtobufSerializer(topic.message, registry, {"auto.register.schemas": True})
    event = filled(topic.message)
    value = serializer(event, SerializationContext(topic.name, MessageField.VALUE))
    schema_id, payload = framing.split(value)
    (version,) = registry.get_versions(topic.subject)
    assert schema_id == registry.get_version(topic.subject, version).schema_id
    assert topic.message.FromString(payload) == event
