"""Checkpoint: what the records of the topics' tails say, read from lists instead of Kafka."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapCause, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from collector_binance import checkpoint
from collector_binance.checkpoint import TAILS, Seen
from collector_binance.core.session import Checkpoint, OpenHole
from meshkit.offsets import Since, Tail

SYMBOL, INSTRUMENT = "BTCUSDT", "binance.BTC-USDT"
OPEN, REPAIRED = GapState.GAP_STATE_OPEN, GapState.GAP_STATE_REPAIRED
LOST = GapState.GAP_STATE_UNREPAIRABLE
APPENDED_MS = 1_723_161_600_000


class Record:
    """A record of a topic, as confluent_kafka gives it."""

    def __init__(self, value: bytes | None, key: str = INSTRUMENT, time_ms: int = 0) -> None:
        self._value, self._key, self._time_ms = value, key, time_ms

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes:
        return self._key.encode()

    def timestamp(self) -> tuple[int, int]:
        return 1, self._time_ms

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
    event = Trade(trade_id=number, event_time=number * 10, symbol=symbol, instrument=instrument)
    if live:
        event.publish_time = number * 10
    return record(event, key=instrument)


def gap(first: int, last: int, revision: int, state: GapState.ValueType = OPEN, **more: Any) -> Gap:
    event = Gap(
        gap_id=f"{INSTRUMENT}:gap:trade:1-{first}",
        revision=revision,
        channel="trade",
        instrument=INSTRUMENT,
        symbol=SYMBOL,
        state=state,
        cause=GapCause.GAP_CAUSE_STALL,
        detail=f"revision {revision}",
        **more,
    )
    event.ids.first, event.ids.last = first, last
    return event


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
        records = self.topics.get(topic, [])
        if isinstance(start, Tail):
            records = records[-start.count :]
        for each in records:
            yield [each]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()
    monkeypatch.setattr(checkpoint, "read_to_end", kafka.read_to_end)
    return kafka


async def read(*symbols: str) -> Checkpoint:
    settings: Any = SimpleNamespace(service_name="collector")
    return await checkpoint.read(settings, symbols)


async def test_empty_topics_give_an_empty_checkpoint(kafka: Kafka) -> None:
    assert (await read(SYMBOL)).symbols == {}
    assert [start for _, start in kafka.reads].count(Tail(TAILS[0])) == 1


async def test_highest_trade_and_book_are_continued(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, trade(5), trade(7), trade(6, live=False))
    for number in (30, 32, 31):
        kafka.put(topics.BOOKS, record(BookUpdate(symbol=SYMBOL, last_update_id=number)))
    kafka.put(topics.BOOKS, record(BookUpdate(symbol="ETHUSDT", last_update_id=9)))
    left = (await read(SYMBOL)).symbols
    assert (left[SYMBOL].trade_id, left[SYMBOL].trade_time) == (7, 70)
    assert (left[SYMBOL].book_id, left[SYMBOL].holes) == (32, [])
    assert (left["ETHUSDT"].trade_id, left["ETHUSDT"].book_id) == (None, 9)


async def test_unrecorded_hole_between_trades_is_open(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, *(trade(number) for number in (5, 9, 12)), trade(7, live=False))
    left = (await read(SYMBOL)).symbols
    assert left[SYMBOL].holes == [
        OpenHole(first_id=first, last_id=last, missing=[(first, last)])
        for first, last in ((6, 6), (8, 8), (10, 11))
    ]


async def test_newest_revision_of_a_gap_counts(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, trade(5), trade(20))
    kafka.put(
        topics.GAPS,
        record(gap(6, 8, 1), time_ms=APPENDED_MS),
        record(gap(6, 8, 3, REPAIRED), time_ms=APPENDED_MS),
        record(gap(6, 8, 2), time_ms=APPENDED_MS),
        record(gap(10, 12, 4, start_time=50, end_time=200), time_ms=APPENDED_MS),
        record(gap(14, 15, 5, LOST), time_ms=APPENDED_MS),
    )
    (hole,) = (await read(SYMBOL)).symbols[SYMBOL].holes
    assert hole == OpenHole(
        first_id=10,
        last_id=12,
        missing=[(10, 12)],
        cause=int(GapCause.GAP_CAUSE_STALL),
        gap_id=f"{INSTRUMENT}:gap:trade:1-10",
        revision=4,
        detail="revision 4",
        start_time=50,
        end_time=200,
    )


async def test_trades_since_an_open_gap_shrink_it(kafka: Kafka) -> None:
    """A repair may have begun longer ago than the tail of trades reaches."""
    kafka.put(topics.GAPS, record(gap(6, 9, 1), time_ms=APPENDED_MS))
    kafka.put(topics.GAPS, record(gap(6, 9, 2), time_ms=APPENDED_MS + 60_000))
    kafka.put(topics.TRADES, trade(7, live=False), trade(10))
    (hole,) = (await read(SYMBOL)).symbols[SYMBOL].holes
    assert hole.missing == [(6, 6), (8, 9)]
    begin = datetime.fromtimestamp(APPENDED_MS / 1000 - 10, UTC)
    assert kafka.reads[-1] == (topics.TRADES.name, Since(begin))


async def test_open_gap_of_a_symbol_beyond_the_tail_is_continued(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TAILS", (1, 2))
    kafka.put(topics.GAPS, record(gap(6, 9, 1), time_ms=APPENDED_MS))
    kafka.put(topics.TRADES, trade(5), trade(7, live=False), trade(10))
    kafka.put(topics.TRADES, *(trade(n, symbol="ETHUSDT") for n in range(1, 4)))
    left = (await read(SYMBOL, "ETHUSDT")).symbols[SYMBOL]
    assert left.trade_id == 10
    assert [hole.missing for hole in left.holes] == [[(6, 6), (8, 9)]]


async def test_trade_ids_that_began_anew_are_continued(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, trade(1_000_001), trade(1_000_002))
    for number in (12, 14, 13, 15):
        event = Trade(
            trade_id=number,
            event_time=10_000_020 + number,
            publish_time=1,
            symbol=SYMBOL,
            instrument=INSTRUMENT,
        )
        kafka.put(topics.TRADES, record(event))
    left = (await read(SYMBOL)).symbols[SYMBOL]
    assert (left.trade_id, left.trade_time) == (15, 10_000_035)
    assert left.holes == []


async def test_gaps_of_other_channels_are_ignored(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, trade(5))
    book = gap(1, 3, 1)
    book.channel = "book"
    kafka.put(topics.GAPS, record(book, time_ms=APPENDED_MS))
    assert (await read(SYMBOL)).symbols[SYMBOL].holes == []


async def test_records_that_are_no_events_are_skipped(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    broken = (None, b"", b"no event", framing.header(1) + b"\xff\xff")
    for topic in (topics.TRADES, topics.GAPS, topics.BOOKS):
        kafka.put(topic, *(Record(value) for value in broken))
    kafka.put(topics.TRADES, trade(5))
    assert (await read(SYMBOL)).symbols[SYMBOL].trade_id == 5
    assert caplog.text.count("topic[0]@17 is skipped") == len(broken) * 3


async def test_longer_tail_is_read_for_a_quiet_symbol(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TAILS", (3, 10))
    kafka.put(topics.TRADES, trade(1, symbol="ETHUSDT"), *(trade(n) for n in range(1, 6)))
    left = (await read(SYMBOL, "ETHUSDT")).symbols
    assert left["ETHUSDT"].trade_id == 1
    starts = [start for topic, start in kafka.reads if topic == topics.TRADES.name]
    assert starts == [Tail(3), Tail(10)]


async def test_short_tail_suffices_when_all_symbols_are_in_it(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TAILS", (3, 10))
    kafka.put(topics.TRADES, *(trade(n) for n in range(1, 6)), trade(1, symbol="ETHUSDT"))
    await read(SYMBOL, "ETHUSDT")
    starts = [start for topic, start in kafka.reads if topic == topics.TRADES.name]
    assert starts == [Tail(3)]


async def test_published_ids_are_those_of_the_instrument_and_span(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, *(trade(n) for n in (4, 5, 8, 9)), trade(6, symbol="ETHUSDT"))
    kafka.put(topics.TRADES, Record(b"no event"), trade(7, live=False))
    settings: Any = SimpleNamespace(service_name="collector")
    ids = [n async for b in checkpoint.published_ids(settings, INSTRUMENT, (5, 8)) for n in b]
    assert ids == [5, 8, 7]
    assert kafka.reads == [(topics.TRADES.name, "beginning")]


@pytest.mark.parametrize("numbers", [[], [7], [7, 8, 9], [9, 8, 7]])
def test_contiguous_trades_have_no_holes(numbers: list[int]) -> None:
    seen = Seen(SYMBOL)
    for number in numbers:
        seen.take(Trade(trade_id=number, event_time=number, publish_time=number))
    assert seen.holes() == []
