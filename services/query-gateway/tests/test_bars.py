"""Which version of a bar counts, and longer bars from shorter ones."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from market_data import bar, bar_row

from query_gateway import bars, intervals
from query_gateway.bars import BarRow
from query_gateway.stored_rows import text

VERSIONS = st.builds(
    lambda minute, trades, final, layer: bar_row(
        minute * 60_000, trades=trades, final=final, layer=layer
    ),
    st.integers(0, 9),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2),
)


def test_a_bar_prints_at_the_venues_scale() -> None:
    row = bars.from_event(bar(0, trades=1))
    assert (row.open, row.volume) == ("60000.00000000", "0.00100000")
    assert row.quote_volume == "60.0000000000000000"
    assert row.vwap == "60000.0000000000000000"


def test_tiny_and_huge_sums_are_printed_without_an_exponent() -> None:
    assert bars.plain(Decimal("1E-16")) == "0.0000000000000001"
    assert bars.plain(Decimal("0E-8")) == "0.00000000"
    assert bars.plain(Decimal("12E+3")) == "12000"


@given(st.decimals(allow_nan=False, allow_infinity=False, places=16))
def test_a_stored_decimal_is_in_plain_notation_digit_for_digit(value: Decimal) -> None:
    shown = text(str(value))
    assert "E" not in shown
    assert Decimal(shown).as_tuple() == value.as_tuple()
    assert text(None) == ""


@given(st.lists(VERSIONS), st.lists(VERSIONS))
def test_of_stored_and_live_bars_the_highest_version_counts(
    stored: list[BarRow], live: list[BarRow]
) -> None:
    merged = bars.merge(stored, live)
    assert [row.start_ms for row in merged] == sorted({row.start_ms for row in [*stored, *live]})
    for row in merged:
        known = [r.version for r in live if r.start_ms == row.start_ms]
        # Cassandra holds one row a window: the last of the list.
        known += [r.version for r in stored if r.start_ms == row.start_ms][-1:]
        assert row.version == max(known)


@given(
    st.lists(
        st.tuples(st.integers(0, 44), st.integers(1, 10**12), st.integers(1, 10**15)),
        min_size=1,
        unique_by=lambda item: item[0],
    )
)
def test_a_longer_bar_is_the_exact_sum_of_its_parts(parts: list[tuple[int, int, int]]) -> None:
    rows = []
    for minute, size, price in sorted(parts):
        volume, value = Decimal(size).scaleb(-8), Decimal(size * price).scaleb(-16)
        one = bar_row(minute * 60_000, trades=1)
        text = bars.plain(Decimal(price).scaleb(-8))
        rows.append(
            one._replace(
                open=text,
                high=text,
                low=text,
                close=text,
                volume=bars.plain(volume),
                quote_volume=bars.plain(value),
            )
        )
    made = bars.roll_up(intervals.parse("15m"), rows, 0)
    for long in made:
        inside = [r for r in rows if long.start_ms <= r.start_ms < long.start_ms + 900_000]
        assert long.open == inside[0].open
        assert long.close == inside[-1].close
        assert long.high == max((r.high for r in inside), key=Decimal)
        assert long.low == min((r.low for r in inside), key=Decimal)
        assert Fraction(long.volume) == sum(Fraction(r.volume) for r in inside)
        assert Fraction(long.quote_volume) == sum(Fraction(r.quote_volume) for r in inside)
        assert (bars.scale(long.volume), bars.scale(long.quote_volume)) == (8, 16)
        exact = Fraction(long.quote_volume) / Fraction(long.volume)
        # round() of a Fraction is half-even.
        assert Fraction(long.vwap) == Fraction(round(exact * 10**16), 10**16)
        assert bars.scale(long.vwap) == 16
    assert sum(row.trade_count for row in made) == len(rows)


def test_a_longer_bar_is_final_when_the_watermark_has_passed_its_end() -> None:
    interval = intervals.parse("15m")
    rows = [bar_row(0, "5m"), bar_row(300_000, "5m")]
    # No trades after 10 minutes: only a later bar tells that the window is closed.
    assert not bars.roll_up(interval, rows, 600_000)[0].final
    closed = bars.roll_up(interval, rows, 900_000)[0]
    assert closed.final
    assert closed.revision == 2 * closed.trade_count + 1
    growing = [rows[0], bar_row(300_000, "5m", final=False)]
    assert not bars.roll_up(interval, growing, 10**12)[0].final


def test_a_longer_bar_is_of_the_batch_only_when_all_its_parts_are() -> None:
    interval = intervals.parse("15m")
    mixed = [bar_row(0, "5m", layer=2), bar_row(300_000, "5m", layer=0)]
    assert bars.roll_up(interval, mixed, 0)[0].layer == 0
    batch = [bar_row(0, "5m", layer=2), bar_row(300_000, "5m", layer=1)]
    assert bars.roll_up(interval, batch, 0)[0].layer == 1
