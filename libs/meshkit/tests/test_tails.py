"""Reads up to a fixed offset: from messages as librdkafka returns them, and from a real Kafka."""

import asyncio
from contextlib import aclosing, closing
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from records import MakeTopic, fill, read_tail, values

from meshkit.errors import DataLoss, FailedPrecondition, Unavailable
from meshkit.kafka import client_config
from meshkit.offsets import Tail, bounds
from meshkit.settings import KafkaSettings
from meshkit.tails import read_range, read_to_end, tail_consumer

TOPIC = "t"
EOF = KafkaError._PARTITION_EOF


def message(offset: int, error: int | None = None, partition: int = 0) -> Message:
    failure = KafkaError(error) if error is not None else None
    return Message(topic=TOPIC, partition=partition, offset=offset, error=failure)


class FakeConsumer:
    """Returns the messages it was made with, then nothing."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.assigned: list[TopicPartition] = []

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def poll(self, _: float) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def consume(self, count: int, _: float) -> list[Message]:
        batch, self.messages = self.messages[:count], self.messages[count:]
        return batch


def offsets_read(*messages: Message, ends: dict[int, int], start: int = 0) -> list[tuple[int, int]]:
    consumer: Any = FakeConsumer(*messages)
    starts = {(TOPIC, partition): start for partition in ends}
    stops = {(TOPIC, partition): end for partition, end in ends.items()}
    batches = read_range(consumer, starts, stops, stall_seconds=0.01)
    read = [(record.partition(), record.offset()) for batch in batches for record in batch]
    return [(partition or 0, offset or 0) for partition, offset in read]


def test_range_excludes_records_before_start_and_from_end():
    found = offsets_read(*map(message, range(6)), ends={0: 4}, start=2)
    assert found == [(0, 2), (0, 3)]


@pytest.mark.parametrize("last", [message(5), message(4, EOF)], ids=["record", "end"])
def test_missing_offsets_at_end_are_passed_over(last: Message):
    assert offsets_read(message(1), last, ends={0: 4}) == [(0, 1)]


def test_end_before_requested_offset_continues():
    found = offsets_read(message(1), message(2, EOF), message(3), ends={0: 4})
    assert found == [(0, 1), (0, 3)]


def test_each_partition_is_read_to_its_own_end():
    records = [message(0), message(0, partition=1), message(1), message(1, partition=1)]
    assert offsets_read(*records, ends={0: 1, 1: 2}) == [(0, 0), (1, 0), (1, 1)]


def test_empty_ranges_read_nothing():
    consumer: Any = FakeConsumer()
    assert list(read_range(consumer, {(TOPIC, 0): 3}, {(TOPIC, 0): 3})) == []
    assert consumer.assigned == []


def test_transient_error_is_retried():
    records = [message(0), message(-1001, KafkaError._TRANSPORT), message(1)]
    assert offsets_read(*records, ends={0: 2}) == [(0, 0), (0, 1)]


def test_final_error_raises_data_loss():
    with pytest.raises(DataLoss, match=r"can't read t\[0\]"):
        offsets_read(message(-1001, KafkaError.TOPIC_AUTHORIZATION_FAILED), ends={0: 2})


def test_stalled_read_names_unread_partitions():
    with pytest.raises(Unavailable, match=r"the tail of t\[1\], t\[2\] could not be read") as info:
        offsets_read(message(0), ends={0: 1, 1: 2, 2: 3})
    assert info.value.reason == "TAIL_TIMEOUT"


@pytest.mark.component
async def test_topic_is_read_to_its_end_at_the_call(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic(2)
    await fill(kafka, topic, range(100), keys=10)
    batches = read_to_end(kafka, topic, "beginning", client_id="r")
    numbers: list[int] = []
    async with aclosing(batches):
        async for batch in batches:
            if not numbers:
                await fill(kafka, topic, range(100, 110))
            numbers += values(batch)
    assert sorted(numbers) == [*range(100)]
    assert values(await read_tail(kafka, topic, Tail(0))) == []
    assert values(await read_tail(kafka, make_topic(), Tail(5))) == []


@pytest.mark.component
async def test_tail_of_trimmed_partition_returns_remaining_records(
    kafka: KafkaSettings, make_topic: MakeTopic, admin: AdminClient
):
    topic = make_topic()
    await fill(kafka, topic, range(10))
    assert values(await read_tail(kafka, topic, Tail(3))) == [7, 8, 9]
    for future in admin.delete_records([TopicPartition(topic, 0, 8)]).values():
        future.result(30)
    assert values(await read_tail(kafka, topic, Tail(5))) == [8, 9]
    # Records that expire between the query of the offsets and the read are passed over.
    with closing(tail_consumer(kafka, "r")) as consumer:
        batches = list(read_range(consumer, {(topic, 0): 2}, {(topic, 0): 10}))
    assert values([record for batch in batches for record in batch]) == [8, 9]


@pytest.mark.component
async def test_only_committed_records_are_read(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    config = client_config(kafka, "t") | {"transactional.id": topic}
    producer = confluent_kafka.Producer(config)
    await asyncio.to_thread(producer.init_transactions, 60)
    for number in range(3):
        producer.begin_transaction()
        producer.produce(topic, str(number))
        # An abort drops what was not sent yet.
        await asyncio.to_thread(producer.flush, 60)
        finish = producer.abort_transaction if number == 2 else producer.commit_transaction
        await asyncio.to_thread(finish, 60)
    assert values(await read_tail(kafka, topic, "beginning")) == [0, 1]
    with closing(tail_consumer(kafka, "r")) as consumer:
        _, end = bounds(consumer, (topic, 0))
        # Three records and a marker after each of them.
        assert end == 6
        batches = list(read_range(consumer, {(topic, 0): 4}, {(topic, 0): end}))
    assert [record for batch in batches for record in batch] == []


@pytest.mark.component
async def test_open_transaction_does_not_block_tail(kafka: KafkaSettings, make_topic: MakeTopic):
    topic = make_topic()
    await fill(kafka, topic, range(3))
    config = client_config(kafka, "t") | {"transactional.id": topic}
    producer = confluent_kafka.Producer(config)
    await asyncio.to_thread(producer.init_transactions, 60)
    producer.begin_transaction()
    producer.produce(topic, "3")
    await asyncio.to_thread(producer.flush, 60)
    assert values(await read_tail(kafka, topic, "beginning")) == [0, 1, 2]
    await asyncio.to_thread(producer.commit_transaction, 60)
    assert values(await read_tail(kafka, topic, "beginning")) == [0, 1, 2, 3]


@pytest.mark.component
async def test_missing_topic_is_named(kafka: KafkaSettings):
    with pytest.raises(FailedPrecondition, match="Kafka has no topic nope"):
        await read_tail(kafka, "nope", "beginning")
