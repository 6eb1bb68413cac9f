"""Statistics of the last 24 hours for each instrument, summed exactly from its 1 m bars.

The clock is derived from the data: the day ends with the newest 1 m bar of any instrument, so that
two replicas with the same bars agree, and a replayed capture has its own day.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple

from query_gateway.bars import BarRow, plain
from query_gateway.intervals import DAY_MS

LEADERBOARDS: Final = ("quote-volume", "trades", "gainers", "losers")
_CENT: Final = Decimal("0.01")
_EXACT: Final = Context(prec=200, rounding=ROUND_HALF_EVEN)


class Figures(NamedTuple):
    """One instrument's day statistics.

    Attributes:
        change_percent: From the day's first price to its last, two decimals; None without trades.
    """

    volume: Decimal
    quote_volume: Decimal
    trade_count: int
    change_percent: Decimal | None


class _Minute(NamedTuple):
    version: tuple[int, int]
    open: str
    close: str
    volume: Decimal
    quote_volume: Decimal
    trade_count: int


class _Day:
    """One instrument's minutes and their sums, updated with each change."""

    def __init__(self) -> None:
        self._minutes: dict[int, _Minute] = {}
        self._starts: list[int] = []
        self._newest_ms = -1
        self._volume = self._quote_volume = Decimal(0)
        self._trades = 0

    def put(self, row: BarRow) -> None:
        volume, quote_volume = Decimal(row.volume), Decimal(row.quote_volume)
        before = self._minutes.get(row.start_ms)
        if before is None:
            heapq.heappush(self._starts, row.start_ms)
            self._newest_ms = max(self._newest_ms, row.start_ms)
        elif before.version >= row.version:
            return
        else:
            self._add(before, -1)
        minute = self._minutes[row.start_ms] = _Minute(
            row.version, row.open, row.close, volume, quote_volume, row.trade_count
        )
        self._add(minute, 1)

    def figures(self, clock_ms: int) -> Figures:
        while self._starts and self._starts[0] <= clock_ms - DAY_MS:
            self._add(self._minutes.pop(heapq.heappop(self._starts)), -1)
        if not self._starts:
            self._volume = self._quote_volume = Decimal(0)  # reset the scale, as for an empty day
        return Figures(self._volume, self._quote_volume, self._trades, self._change())

    def _add(self, minute: _Minute, sign: int) -> None:
        step = _EXACT.add if sign > 0 else _EXACT.subtract
        self._volume = step(self._volume, minute.volume)
        self._quote_volume = step(self._quote_volume, minute.quote_volume)
        self._trades += sign * minute.trade_count

    def _change(self) -> Decimal | None:
        if not self._starts:
            return None
        first = Decimal(self._minutes[self._starts[0]].open)
        last = Decimal(self._minutes[self._newest_ms].close)
        if not first:
            return None
        percent = _EXACT.divide(_EXACT.multiply(_EXACT.subtract(last, first), Decimal(100)), first)
        return _EXACT.quantize(percent, _CENT)


class DayFigures:
    """The days of all instruments."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}
        self.clock_ms = 0

    def put(self, instrument: str, row: BarRow) -> None:
        """Add a 1 m bar; ignore a bar older than the day or than the stored version."""
        self.clock_ms = max(self.clock_ms, row.start_ms)
        if row.start_ms > self.clock_ms - DAY_MS:
            self._days.setdefault(instrument, _Day()).put(row)

    def of(self, instrument: str) -> Figures:
        """Return the statistics of one instrument; zeros without a bar in the day."""
        day = self._days.get(instrument)
        return day.figures(self.clock_ms) if day else Figures(Decimal(0), Decimal(0), 0, None)

    def ranking(self, leaderboard: str) -> list[tuple[str, Decimal]]:
        """Return the day's traded instruments and their value, best first, ties by name."""
        ranked: list[tuple[Decimal, str, Decimal]] = []
        for instrument in self._days:
            value = _figure(leaderboard, self.of(instrument))
            if value is not None:
                ranked.append((value if leaderboard == "losers" else -value, instrument, value))
        return [(instrument, value) for _, instrument, value in sorted(ranked)]


def _figure(leaderboard: str, figures: Figures) -> Decimal | None:
    if not figures.trade_count:
        return None
    if leaderboard == "quote-volume":
        return figures.quote_volume
    if leaderboard == "trades":
        return Decimal(figures.trade_count)
    return figures.change_percent


def texts(ranking: Iterable[tuple[str, Decimal]]) -> list[tuple[str, str]]:
    """Return a ranking with its values in plain notation."""
    return [(instrument, plain(value)) for instrument, value in ranking]
