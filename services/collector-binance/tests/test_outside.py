"""What stands between the engine and the world: weight, attempts, the way to Kafka, the tails."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.trade_pb2 import Trade
from collector_binance.checkpoint import Seen, missing_spans
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
    """A producer with room for so many records."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent: list[Any] = []
        self.more = asyncio.Event()

    def produce_nowait(self, *record: Any) -> None:
        if len(self.sent) >= self.room:
            raise BufferError
        self.sent.append(record)

    async def produce(self, *record: Any) -> None:
        while len(self.sent) >= self.room:
            self.more.clear()
            await self.more.wait()
        self.sent.append(record)


async def test_without_room_reading_pauses_and_only_quotes_are_replaced() -> None:
    kafka = SlowKafka(room=2)
    outlet = Outlet(kafka, Metrics())  # type: ignore[arg-type]
    pressure: list[bool] = []
    outlet.on_pressure = pressure.append
    records = [(TRADES, b"a", b"%d" % n) for n in range(4)]
    outlet.put(records)
    outlet.put([(QUOTES, b"a", b"q1"), (QUOTES, b"b", b"q2"), (QUOTES, b"a", b"q3")])
    assert pressure == [True]
    drained = asyncio.create_task(outlet.drain())
    for _ in range(3):
        await asyncio.sleep(0)
        outlet.put([(TRADES, b"a", b"late")])
        kafka.room += 1
        kafka.more.set()
    kafka.room = 100
    kafka.more.set()
    await drained
    await outlet.drain()
    values = [value for topic, _, value in kafka.sent if topic == TRADES]
    assert values == [b"0", b"1", b"2", b"3", b"late", b"late", b"late"]
    assert sorted(value for topic, _, value in kafka.sent if topic == QUOTES) == [b"q2", b"q3"]
    assert outlet.coalesced == 1
    assert pressure[-1] is False
    assert len(outlet) == 0


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
