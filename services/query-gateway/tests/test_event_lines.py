"""Lines of events are made beside the event loop."""

import asyncio
import json
import threading
from typing import Any

import pytest
from market_data import INSTRUMENT, Rejections, trade

from coinmesh_contracts import framing, topics
from meshkit.decoding import Decoder
from meshkit.registry import SchemaIds
from query_gateway.event_lines import EventLines

TOPIC = topics.TRADES.name


class Record:
    """A record of Kafka's client."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def topic(self) -> str:
        return TOPIC

    def value(self) -> bytes:
        return self._value


class Registry:
    """Accepts one id more than was resolved."""

    async def accepts(self, topic: str, schema_id: int) -> bool:
        return schema_id == 8


class Watched(Decoder):
    """Notes the threads that decode."""

    threads: set[int]

    def decode_value(self, topic: str, value: bytes | None) -> Any:
        self.threads.add(threading.get_ident())
        return super().decode_value(topic, value)


def record(schema_id: int, number: int, name: str = INSTRUMENT) -> Any:
    event = trade(number, 1_000_000 + number, name)
    return Record(framing.header(schema_id) + event.SerializeToString())


@pytest.fixture
def letters() -> Rejections:
    return Rejections()


@pytest.fixture
def decoder(letters: Rejections) -> Watched:
    messages: Any = {TOPIC: topics.TRADES.message}
    registry: Any = Registry()
    decoder = Watched(messages, SchemaIds({TOPIC: 7}), registry, letters)
    decoder.threads = set()
    return decoder


def ids(lines: list[str]) -> list[str]:
    return [json.loads(line)["metadata"]["event_id"].rpartition(":")[2] for line in lines]


async def test_lines_are_decoded_off_the_event_loop(decoder: Watched) -> None:
    lines = EventLines(decoder)
    batch = [record(7, 1), record(7, 2, "binance.ETH-USDT"), record(7, 3)]
    assert ids(await lines.render(batch, INSTRUMENT)) == ["1", "3"]
    assert ids(await lines.render(batch, "")) == ["1", "2", "3"]
    assert decoder.threads
    assert threading.get_ident() not in decoder.threads
    await lines.close()


async def test_unknown_ids_and_bad_records_change_no_other_line(
    decoder: Watched, letters: Rejections
) -> None:
    lines = EventLines(decoder)
    batch = [record(7, 1), record(8, 2), Record(b"garbage"), record(9, 3), record(7, 4)]
    found = await asyncio.gather(lines.render(batch, ""), lines.render(batch, INSTRUMENT))
    assert [ids(texts) for texts in found] == [["1", "2", "4"]] * 2
    assert len(letters.reasons) == 4
    await lines.close()
