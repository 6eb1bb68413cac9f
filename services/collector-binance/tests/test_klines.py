"""Klines that the exchange sends, compared with those of the received trades."""

import json
from typing import Any

import pytest
from engine_bench import (
    GAPS,
    PRICE,
    REST,
    TRADES,
    Bench,
)

from collector_binance.core import klines as core_klines
from collector_binance.testing import (
    BEGIN_MS,
    SYMBOL,
    combined,
    past_trade,
    text,
    trade,
)


def kline(first: int, last: int, **changes: Any) -> bytes:
    """The closed kline of trades first to last as `trade` makes them, in BEGIN's minute."""
    sizes = last - first + 1
    taken = sum(1 for n in range(first, last + 1) if n % 2)
    data: dict[str, Any] = {
        "t": BEGIN_MS,
        "T": BEGIN_MS + 59_999,
        "s": SYMBOL,
        "i": "1m",
        "f": first,
        "L": last,
        "o": text(PRICE),
        "c": text(PRICE),
        "h": text(PRICE),
        "l": text(PRICE),
        "v": text(sizes * 10**8),
        "n": sizes,
        "x": True,
        "q": text(sizes * PRICE),
        "V": text(taken * 10**8),
        "Q": text(taken * PRICE),
        "B": "0",
    }
    data |= changes
    return combined("kline_1m", {"e": "kline", "E": BEGIN_MS, "s": SYMBOL, "k": data})


OPEN_KLINE = kline(1, 1, x=False)


def test_a_kline_that_our_trades_make_matches(bench: Bench) -> None:
    bench.send(OPEN_KLINE)
    for number in range(1, 5):
        bench.send(trade(number))
    bench.send(kline(1, 5))  # its last trade is still under way
    bench.send(trade(5))
    assert bench.engine.markets[SYMBOL].klines.matches == 1
    assert bench.of(GAPS) == []


@pytest.mark.parametrize("field", ["o", "h", "l", "c", "v", "q", "V"])
def test_a_kline_that_differs_is_a_gap_that_names_the_field(bench: Bench, field: str) -> None:
    bench.send(OPEN_KLINE)
    for number in range(1, 5):
        bench.send(trade(number))
    bench.send(kline(1, 4, **{field: "12.34567800"}))
    (gap,) = bench.of(GAPS)
    assert (gap.channel, gap.cause, gap.state) == ("kline_1m", 6, 4)
    assert gap.time.start == BEGIN_MS * 1000
    assert f" {field}: ours" in gap.detail


def test_a_kline_of_which_we_saw_a_part_is_not_compared(bench: Bench) -> None:
    bench.send(OPEN_KLINE)
    bench.send(trade(3))
    bench.send(kline(1, 3, v="9.00000000"))
    klines = bench.engine.markets[SYMBOL].klines
    assert (klines.matches, klines.mismatches) == (0, 0)
    assert bench.of(GAPS) == []


def test_trades_without_a_kline_are_held_for_minutes_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(OPEN_KLINE)
    for number in range(1, 600):
        bench.send(trade(number, T=BEGIN_MS + number * 1000))
    held = bench.engine.markets[SYMBOL].klines._held
    assert max(held) == 599
    assert 300 <= len(held) <= 360
    monkeypatch.setattr(core_klines, "KEPT_TRADES", 400)
    for number in range(600, 1100):
        bench.send(trade(number, T=BEGIN_MS + 600_000))
    held = bench.engine.markets[SYMBOL].klines._held
    assert max(held) == 1099
    assert 200 <= len(held) <= 400


def test_a_kline_tells_of_trades_that_never_came(bench: Bench) -> None:
    bench.send(OPEN_KLINE)
    bench.send(trade(1))
    bench.send(kline(1, 3))
    bench.now += 11 * 10**9
    bench.give("TICK")
    (gap,) = bench.of(GAPS)
    assert (gap.channel, gap.ids.first, gap.ids.last) == ("trade", 2, 3)
    (wanted,) = bench.commands()
    body = json.dumps([past_trade(2), past_trade(3)]).encode()
    target = f"GET /api/v3/historicalTrades?symbol={SYMBOL}&fromId={wanted.first_id}&limit=2"
    bench.give("REST", REST, body, target)
    assert [event.trade_id for event in bench.of(TRADES)] == [1, 2, 3]
    assert bench.engine.markets[SYMBOL].klines.matches == 1
