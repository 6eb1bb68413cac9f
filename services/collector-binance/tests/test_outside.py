"""What stands between the engine and the world: weight, attempts, the way to Kafka, the tails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.trade_pb2 import Trade
from collector_binance.checkpoint import Seen, missing_spans
from collector_binance.core.frames import FrameRecorder
from collector_binance.links import AttemptLimit
from collector_binance.outlet import Outlet
from collector_binance.rest import WeightBudget
from meshkit.metrics import Metrics

QUOTES, TRADES = "market.quotes.v1", "market.trades.v1"


def test_the_weight_stays_within_the_minute_and_its_reserve() -> None:
    budget = WeightBudget()
    budget.limit = 1000
    now = 6000.0
    for _ in range(16):
        assert budget.delay(50, now) == 0
    assert budget.delay(50, now) == pytest.approx(60.05)
    assert budget.delay(50, now + 60) == 0


def test_the_venues_own_count_holds() -> None:
    budget = WeightBudget()
    budget.reported(5_000, 6010.0)
    assert budget.delay(50, 6011.0) > 0
    assert budget.used(6011.0) == 5_000


def test_connection_attempts_are_spread() -> None:
    limit = AttemptLimit(count=3, seconds=10)
    assert [limit.delay(t) for t in (0.0, 1.0, 2.0)] == [0, 0, 0]
    assert limit.delay(3.0) == 7
    assert limit.delay(10.0) == 0


class SlowKafka:
    """A producer with room for so many events, that takes frames when it is told to."""

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[Any] = []
        self.asked: list[asyncio.Future[None]] = []
        self.more = asyncio.Event()
        self.acknowledged = asyncio.Event()

    def produce_nowait(self, *record: Any) -> None:
        if len(self.sent) >= self.room:
            raise BufferError
        self.sent.append(record)

    async def produce(self, *record: Any) -> None:
        while len(self.sent) >= self.room:
            self.more.clear()
            await self.more.wait()
        self.sent.append(record)

    async def deliver(self, *record: Any) -> None:
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append(taken)
        await taken
        self.sent.append(record)
        self.room += 1

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109
        del timeout
        self.sent.append(("flush", b"", b""))
        await self.acknowledged.wait()

    async def take_frames(self, room: int) -> None:
        """Acknowledge the frames that were sent, and make room for events."""
        await until(lambda: self.asked)
        for taken in self.asked:
            taken.set_result(None)
        self.asked.clear()
        self.room += room
        self.more.set()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0)


class Feed:
    """An outlet that is given events with the frames they come from."""

    def __init__(self, kafka: SlowKafka, most: int) -> None:
        self._recorder = FrameRecorder(1)
        self._sequence = 0
        self.outlet = Outlet(kafka, self._recorder, most, Metrics())  # type: ignore[arg-type]
        self.pressure: list[bool] = []
        self.outlet.on_pressure = self.pressure.append

    def put(self, topic: str, key: bytes, value: bytes) -> None:
        full = self._recorder.message(value, 0, "c/1", self._sequence)
        self._sequence += 1
        self.outlet.put([(topic, key, value)], full)


def sent(kafka: SlowKafka, topic: str) -> list[bytes]:
    return [value for name, _, value in kafka.sent if name == topic]


async def test_an_event_is_sent_when_kafka_has_its_frame() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    running = asyncio.create_task(feed.outlet.run())
    feed.put(TRADES, b"a", b"1")
    await until(lambda: kafka.asked)
    feed.put(TRADES, b"a", b"2")
    assert kafka.sent == []
    await kafka.take_frames(room=5)
    await until(lambda: kafka.asked)
    assert sent(kafka, TRADES) == [b"1"], "the second waits for a frame of its own"
    # The service stops while a round is on its way: it is finished.
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    drained = asyncio.create_task(feed.outlet.drain())
    await kafka.take_frames(room=5)
    await drained
    assert sent(kafka, TRADES) == [b"1", b"2"]
    order = [name for name, *_ in kafka.sent]
    assert order == ["ingest.frames.v1", TRADES] * 2


async def test_gap_record_waits_until_earlier_trades_are_acknowledged() -> None:
    """They are on different partitions: a crash between them must not leave a false REPAIRED."""
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    feed.put("ingest.gaps.v1", b"a", b"repaired")
    drained = asyncio.create_task(feed.outlet.drain())
    await kafka.take_frames(room=5)
    await until(lambda: ("flush", b"", b"") in kafka.sent)
    assert sent(kafka, TRADES) == [b"1"]
    assert sent(kafka, "ingest.gaps.v1") == []
    kafka.acknowledged.set()
    await drained
    assert sent(kafka, "ingest.gaps.v1") == [b"repaired"]


async def test_delivered_returns_once_earlier_events_are_acknowledged() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    waiting = asyncio.create_task(feed.outlet.delivered())
    running = asyncio.create_task(feed.outlet.run())
    await kafka.take_frames(room=5)
    await until(lambda: ("flush", b"", b"") in kafka.sent)
    assert sent(kafka, TRADES) == [b"1"]
    assert not waiting.done()
    kafka.acknowledged.set()
    await waiting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_kafka_reading_pauses_and_only_quotes_are_replaced() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=4)
    for number in range(4):
        feed.put(TRADES, b"a", b"%d" % number)
    assert feed.pressure == [True]
    for key, value in ((b"a", b"q1"), (b"b", b"q2"), (b"a", b"q3")):
        feed.put(QUOTES, key, value)
    assert len(feed.outlet) == 6
    drained = asyncio.create_task(feed.outlet.drain())
    await until(lambda: kafka.asked)
    feed.put(TRADES, b"a", b"late")
    await kafka.take_frames(room=3)
    await until(lambda: len(kafka.sent) == 4)
    assert feed.pressure == [True], "three of six events have found room"
    kafka.room += 100
    kafka.more.set()
    await kafka.take_frames(room=0)
    await drained
    assert sent(kafka, TRADES) == [b"0", b"1", b"2", b"3", b"late"]
    assert sorted(sent(kafka, QUOTES)) == [b"q2", b"q3"]
    assert feed.outlet.coalesced == 1
    assert feed.pressure == [True, False]
    assert len(feed.outlet) == 0


@given(st.integers(0, 20), st.integers(0, 20), st.sets(st.integers(0, 30)))
def test_missing_spans_are_what_is_not_present(first: int, length: int, present: set[int]) -> None:
    last = first + length
    spans = missing_spans((first, last), present)
    told = [n for a, b in spans for n in range(a, b + 1)]
    assert told == [n for n in range(first, last + 1) if n not in present]


def test_the_tail_tells_holes_between_live_trades_only() -> None:
    seen = Seen("X")
    # The tail begins amid a repair of long ago (7, 8); 12 was repaired, 14 never came.
    for number, is_live in (
        (7, False),
        (8, False),
        (11, True),
        (13, True),
        (12, False),
        (15, True),
    ):
        trade = Trade(trade_id=number, event_time=number)
        if is_live:
            trade.publish_time = number
        seen.take(trade)
    assert seen.holes() == [(14, 14)]
    assert seen.last == 15
