"""Writing numbers to a topic and reading them back, for tests."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from confluent_kafka import Message

from meshkit.consumer import Consumer
from meshkit.offsets import Start
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings
from meshkit.tails import read_to_end

MakeTopic = Callable[..., str]


async def read(consumer: Consumer, count: int, **how: Any) -> list[Message]:
    """The next `count` records, or somewhat more."""
    records: list[Message] = []
    async with aclosing(consumer.batches(**how)) as batches:
        async for batch in batches:
            records += batch
            if len(records) >= count:
                break
    return records


async def read_tail(kafka: KafkaSettings, topic: str, start: Start) -> list[Message]:
    """All records from `start` to the end."""
    batches = read_to_end(kafka, topic, start, client_id="r")
    return [record async for batch in batches for record in batch]


def values(records: list[Message]) -> list[int]:
    return [int(record.value() or b"") for record in records]


async def fill(kafka: KafkaSettings, topic: str, numbers: range, keys: int = 1) -> None:
    async with Producer(kafka, client_id="fill") as producer:
        for number in numbers:
            await producer.produce(topic, f"key-{number % keys}", str(number).encode())
