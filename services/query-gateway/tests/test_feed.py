"""Records into the view: what no table takes is counted and skipped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from market_data import INSTRUMENT, Rejections, bar, delta, instrument, quote, snapshot, trade

from coinmesh_contracts import topics
from query_gateway.coverage import Coverage
from query_gateway.feed import Feed
from query_gateway.hub import Hub
from query_gateway.live_view import LiveView

NOW_MS = 1_790_000_000_000
_TOPICS = {topic.message: topic.name for topic in topics.ALL if topic.message is not None}


class FakeRecord:
    """A record of Kafka with its decoded event."""

    def __init__(self, event: Any, offset: int, key: bytes | None = None) -> None:
        self.event, self._offset = event, offset
        self._key = event.instrument.encode() if key is None else key

    def topic(self) -> str:
        return _TOPICS[type(self.event)]

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW_MS

    def headers(self) -> None:
        return None


class FakeDecoder:
    async def decode(self, batch: list[FakeRecord]) -> list[tuple[FakeRecord, Message]]:
        return [(record, record.event) for record in batch]


class Replica:
    """A feed with all that it fills."""

    def __init__(self) -> None:
        self.view, self.hub, self.rejections = LiveView(100), Hub(100, 50), Rejections()
        settings: Any = SimpleNamespace(spark_ahead_seconds=300.0, live_lookback_seconds=90)
        decoder: Any = FakeDecoder()
        tracing: Any = None
        self.feed = Feed(
            settings,
            decoder,
            self.view,
            Coverage(),
            self.hub,
            rejections=self.rejections,
            note=lambda _: None,
            tracing=tracing,
        )

    async def take(self, *events: Any) -> list[str]:
        """The reasons why some were skipped."""
        batch: Any = [
            event if isinstance(event, FakeRecord) else FakeRecord(event, offset)
            for offset, event in enumerate(events)
        ]
        await self.feed.take(batch)
        return self.rejections.reasons


def changed(event: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(event, name, value)
    return event


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (changed(trade(2, NOW_MS * 1000), taker_side=128), "INVALID_TAKER_SIDE"),
        (changed(trade(2, NOW_MS * 1000), price_exponent=-(2**31)), "INVALID_EXPONENT"),
        (changed(trade(2, NOW_MS * 1000), size_exponent=2**31 - 1), "INVALID_EXPONENT"),
        (trade(2, (NOW_MS + 300_001) * 1000), "FUTURE_EVENT_TIME"),
        (changed(trade(2, NOW_MS * 1000), trade_id=2**64 - 1), "INVALID_TRADE_ID"),
        (FakeRecord(trade(2, NOW_MS * 1000), 1, b"binance.ETH-USDT"), "KEY_MISMATCH"),
    ],
)
async def test_trade_that_the_table_lacks_is_not_shown(bad: Any, reason: str) -> None:
    replica = Replica()
    good = [trade(number, NOW_MS * 1000 + number) for number in (1, 3)]
    assert await replica.take(good[0], bad, FakeRecord(good[1], 2)) == [reason]
    kept = replica.view.trade_ring(INSTRUMENT).between((0, 0), (2**63, 0))
    assert [row.trade_id for row in kept] == [1, 3]
    assert replica.hub.head[topics.TRADES.name, 0] == 3


def uneven() -> Any:
    event = snapshot(20, {1: 1}, {2: 1})
    event.ask_size_units.append(5)
    return event


@pytest.mark.parametrize(
    "bad",
    [
        changed(quote(2), price_exponent=-(2**31)),
        changed(quote(2), size_exponent=19),
        uneven(),
        changed(snapshot(20, {1: 1}, {2: 1}), price_exponent=2**31 - 1),
        changed(delta(11, 11, {1: 1}, {}), size_exponent=-(2**31)),
        changed(bar(60_000), price_exponent=-(2**31)),
        changed(bar(60_000), volume="many"),
        changed(instrument(), size_exponent=2**31 - 1),
    ],
)
async def test_event_with_invalid_values_changes_nothing(bad: Any) -> None:
    replica = Replica()
    before = [instrument(), quote(1), snapshot(10, {100: 1}, {101: 2}), bar(0)]
    await replica.take(*before)
    book = replica.view.books[INSTRUMENT].view(10)
    assert await replica.take(bad) == ["INVALID_VALUE"]
    assert replica.view.books[INSTRUMENT].view(10) == book
    assert replica.view.quotes[INSTRUMENT].update_id == 1
    assert replica.view.instruments[INSTRUMENT] == instrument()
    assert replica.view.day.of(INSTRUMENT).trade_count == 3
    assert await replica.take(quote(3)) == ["INVALID_VALUE"]
    assert replica.view.quotes[INSTRUMENT].update_id == 3
