"""Figures of the last 24 hours and the leaderboards made of them."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from market_data import bar_row

from query_gateway.day_figures import DayFigures, texts

DAY_MINUTES = 1440
BARS = st.tuples(st.integers(0, 3 * DAY_MINUTES), st.integers(1, 9))


@given(st.lists(BARS, min_size=1, max_size=60))
def test_a_day_is_the_sum_of_its_newest_bars_in_any_order(bars: list[tuple[int, int]]) -> None:
    day = DayFigures()
    newest: dict[int, int] = {}
    for minute, trades in bars:
        day.put("x", bar_row(minute * 60_000, trades=trades))
        newest[minute] = max(trades, newest.get(minute, 0))
    last = max(newest)
    inside = {minute: trades for minute, trades in newest.items() if minute > last - DAY_MINUTES}
    figures = day.of("x")
    assert figures.trade_count == sum(inside.values())
    assert figures.volume == sum(Decimal(trades * 100_000).scaleb(-8) for trades in inside.values())


def test_the_clock_is_the_newest_bar_of_any_instrument() -> None:
    day = DayFigures()
    day.put("old", bar_row(0))
    day.put("new", bar_row(2 * DAY_MINUTES * 60_000))
    assert day.of("old").trade_count == 0
    assert [name for name, _ in day.ranking("trades")] == ["new"]


def test_leaderboards_rank_best_first_and_ties_by_name() -> None:
    day = DayFigures()
    for name, trades, price in [("b", 3, 100), ("a", 3, 100), ("c", 9, 50)]:
        day.put(name, bar_row(0, trades=trades, price=price * 10**8))
        day.put(name, bar_row(60_000, trades=1, price=(price + trades) * 10**8))
    assert texts(day.ranking("trades")) == [("c", "10"), ("a", "4"), ("b", "4")]
    assert texts(day.ranking("gainers"))[0] == ("c", "18.02")
    assert texts(day.ranking("losers"))[0] == ("a", "3.01")
    assert [name for name, _ in day.ranking("quote-volume")] == ["c", "a", "b"]


def test_a_newer_version_of_a_bar_replaces_it() -> None:
    day = DayFigures()
    day.put("x", bar_row(0, trades=2, final=False))
    day.put("x", bar_row(0, trades=5))
    day.put("x", bar_row(0, trades=4))
    assert day.of("x").trade_count == 5
    day.put("x", bar_row(0, trades=4, layer=1))
    assert day.of("x").trade_count == 4


def test_sums_of_more_digits_than_a_default_decimal_holds_are_exact() -> None:
    day = DayFigures()
    huge = bar_row(0)._replace(quote_volume="123456789012345678901234.0000000000000001")
    day.put("x", huge)
    day.put("x", huge._replace(start_ms=60_000))
    assert texts(day.ranking("quote-volume")) == [
        ("x", "246913578024691357802468.0000000000000002")
    ]
