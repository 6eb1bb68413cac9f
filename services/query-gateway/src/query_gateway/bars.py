"""Bars as rows: version precedence, and exact aggregation of shorter bars to longer ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple

from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.bar_pb2 import Bar as BarEvent
from coinmesh_contracts.serving import VWAP_EXTRA_DIGITS, divide_half_even
from query_gateway.intervals import Interval

_EXACT: Final = Context(prec=200, rounding=ROUND_HALF_EVEN)


class BarRow(NamedTuple):
    """One bar; decimals are plain strings at their scale, `start_ms` is its window's start."""

    start_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    vwap: str
    taker_buy_volume: str
    taker_buy_quote_volume: str
    trade_count: int
    first_trade_id: int
    last_trade_id: int
    final: bool
    revision: int
    layer: int
    run: str

    @property
    def version(self) -> tuple[int, int]:
        """Return the version; of two rows for one window the higher version is valid."""
        return self.layer, self.revision


def from_event(event: BarEvent) -> BarRow:
    """Return the row of an event of market.bars.v1; its event_time is the window's start."""
    exponent = event.price_exponent
    return BarRow(
        event.event_time // 1000,
        to_string(event.open_units, exponent),
        to_string(event.high_units, exponent),
        to_string(event.low_units, exponent),
        to_string(event.close_units, exponent),
        event.volume,
        event.quote_volume,
        event.vwap,
        event.taker_buy_volume,
        event.taker_buy_quote_volume,
        event.trade_count,
        event.first_trade_id,
        event.last_trade_id,
        event.final,
        event.revision,
        event.layer,
        event.run,
    )


def merge(stored: Iterable[BarRow], live: Iterable[BarRow]) -> list[BarRow]:
    """Return the rows of both, oldest first; for each window the one with the highest version."""
    merged = {row.start_ms: row for row in stored}
    for row in live:
        known = merged.get(row.start_ms)
        if known is None or known.version < row.version:
            merged[row.start_ms] = row
    return [merged[start] for start in sorted(merged)]


def roll_up(interval: Interval, rows: Sequence[BarRow], closed_until_ms: int) -> list[BarRow]:
    """Aggregate stored bars of whole windows to a longer interval, oldest first.

    Args:
        interval: The target interval.
        rows: Bars of `interval.stored`, oldest first.
        closed_until_ms: Every window that ends at or before this time is known to be closed.
    """
    if interval.factor == 1:
        return list(rows)
    groups: dict[int, list[BarRow]] = {}
    for row in rows:
        groups.setdefault(row.start_ms - row.start_ms % interval.ms, []).append(row)
    return [_combine(interval, start, group, closed_until_ms) for start, group in groups.items()]


def _combine(
    interval: Interval, start_ms: int, rows: Sequence[BarRow], closed_until_ms: int
) -> BarRow:
    volume = _sum(row.volume for row in rows)
    quote_volume = _sum(row.quote_volume for row in rows)
    trades = sum(row.trade_count for row in rows)
    closed = start_ms + interval.ms <= closed_until_ms
    final = closed and all(row.final for row in rows)
    oldest = min(rows, key=lambda row: row.layer)
    return BarRow(
        start_ms,
        rows[0].open,
        max((row.high for row in rows), key=Decimal),
        min((row.low for row in rows), key=Decimal),
        rows[-1].close,
        plain(volume),
        plain(quote_volume),
        vwap(quote_volume, volume, scale(rows[0].open)),
        plain(_sum(row.taker_buy_volume for row in rows)),
        plain(_sum(row.taker_buy_quote_volume for row in rows)),
        trades,
        min(row.first_trade_id for row in rows),
        max(row.last_trade_id for row in rows),
        final,
        2 * trades + final,
        oldest.layer,
        oldest.run if oldest.layer else rows[-1].run,
    )


def vwap(quote_volume: Decimal, volume: Decimal, price_scale: int) -> str:
    """Return quote volume / volume; "" without volume.

    The result is rounded half-even at the price's scale + 8.
    """
    if not volume:
        return ""
    # Computed from integers so that it is rounded only once.
    digits = price_scale + VWAP_EXTRA_DIGITS
    above, quote_unit = quote_volume.as_integer_ratio()
    below, base_unit = volume.as_integer_ratio()
    units = divide_half_even(above * base_unit * 10**digits, quote_unit * below)
    return to_string(units, -digits)


def plain(value: Decimal) -> str:
    """Return a decimal in plain notation with its trailing zeros; str() may use E notation."""
    return format(value, "f")


def scale(text: str) -> int:
    """Return the number of fraction digits of a plain decimal."""
    return len(text) - text.index(".") - 1 if "." in text else 0


def _sum(values: Iterable[str]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _EXACT.add(total, Decimal(value))
    return total
