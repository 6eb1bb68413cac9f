"""The topics that a start reads, in memory."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapCause, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources.checkpoints import MARGIN

SYMBOL, INSTRUMENT = "BTCUSDT", "binance.BTC-USDT"
OPEN, REPAIRED = GapState.GAP_STATE_OPEN, GapState.GAP_STATE_REPAIRED
LOST = GapState.GAP_STATE_UNREPAIRABLE
ROUND_NS = 1_723_161_600 * 10**9
SINCE = datetime.fromtimestamp(ROUND_NS / 1e9, UTC) - MARGIN


class Record:
    """A record of a topic, as confluent_kafka gives it."""

    def __init__(self, value: bytes | None, key: str = INSTRUMENT) -> None:
        self._value, self._key = value, key

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes:
        return self._key.encode()

    def topic(self) -> str:
        return "topic"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 17


def record(event: Any, **more: Any) -> Record:
    return Record(framing.header(1) + event.SerializeToString(), **more)


def trade(number: int, *, live: bool = True, symbol: str = SYMBOL) -> Record:
    instrument = f"binance.{symbol.removesuffix('USDT')}-USDT"
    event = Trade(
        trade_id=number,
        event_time=number * 10,
        source="binance",
        symbol=symbol,
        instrument=instrument,
    )
    if live:
        event.publish_time = number * 10
    return record(event, key=instrument)


def late(number: int, time: int) -> Record:
    """A trade of the stream at that time."""
    event = Trade(
        trade_id=number,
        event_time=time,
        publish_time=1,
        source="binance",
        symbol=SYMBOL,
        instrument=INSTRUMENT,
    )
    return record(event)


def gap(first: int, last: int, revision: int, state: GapState.ValueType = OPEN, **more: Any) -> Gap:
    event = Gap(
        gap_id=f"{INSTRUMENT}:gap:trade:1-{first}",
        revision=revision,
        channel="trade",
        source="binance",
        instrument=INSTRUMENT,
        symbol=SYMBOL,
        state=state,
        cause=GapCause.GAP_CAUSE_STALL,
        detail=f"revision {revision}",
        **more,
    )
    event.ids.first, event.ids.last = first, last
    return event


def book(number: int, symbol: str = SYMBOL) -> Record:
    instrument = f"binance.{symbol.removesuffix('USDT')}-USDT"
    return record(
        BookUpdate(last_update_id=number, source="binance", symbol=symbol, instrument=instrument),
        key=instrument,
    )


def saved(
    stream: str, last_id: int, *, epoch: int = 3, subscribed: bool = True, **more: Any
) -> Record:
    """A checkpoint of BTCUSDT."""
    event = Checkpoint(
        source="binance",
        stream=stream,
        instrument=INSTRUMENT,
        symbol=SYMBOL,
        last_id=last_id,
        event_time=last_id * 10,
        epoch=epoch,
        subscribed=subscribed,
        **more,
    )
    return record(event, key=f"binance/{stream}")


def marker(collector: str = "collector", *, epoch: int = 3) -> Record:
    event = Checkpoint(
        source="binance", stream=f"round:{collector}", receive_time=ROUND_NS, epoch=epoch
    )
    return record(event, key=f"binance/round:{collector}")


class Kafka:
    """Topics as lists, each of one partition; `reads` has the topic and start of each read."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Record]] = {}
        self.reads: list[tuple[str, Any]] = []

    def put(self, topic: topics.Topic, *records: Record) -> None:
        self.topics.setdefault(topic.name, []).extend(records)

    async def read_to_end(
        self, _: object, topic: str, start: Any, *, client_id: str, stall_seconds: float
    ) -> AsyncGenerator[list[Record], None]:
        assert client_id == "collector-checkpoint"
        self.reads.append((topic, start))
        for each in self.topics.get(topic, []):
            yield [each]
