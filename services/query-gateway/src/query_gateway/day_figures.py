"""Each instrument's figures of the last 24 hours, summed exactly from its 1 m bars.

The clock is the data's own: the day ends with the newest 1 m bar of any instrument, so that two
replicas with the same bars agree, and a replayed capture has its own day.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, NamedTuple

from query_gateway.bars import BarRow, plain
from query_gateway.intervals import DAY_MS

LEADERBOARDS: Final = ("quote-volume", "trades", "gainers", "losers")
_CENT: Final = Decimal("0.01")


class Figures(NamedTuple):
    """One instrument's day.

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
    def __init__(self) -> None:
        self.minutes: dict[int, _Minute] = {}
        self.known: tuple[int, Figures] | None = None

    def put(self, row: BarRow) -> None:
        before = self.minutes.get(row.start_ms)
        if before is not None and before.version >= row.version:
            return
        volume, quote = Decimal(row.volume), Decimal(row.quote_volume)
        self.minutes[row.start_ms] = _Minute(
            row.version, row.open, row.close, volume, quote, row.trade_count
        )
        self.known = None

    def figures(self, clock_ms: int) -> Figures:
        if self.known is not None and self.known[0] == clock_ms:
            return self.known[1]
        begin = clock_ms - DAY_MS
        for start in [start for start in self.minutes if start <= begin]:
            del self.minutes[start]
        found = _sum(self.minutes)
        self.known = clock_ms, found
        return found


class DayFigures:
    """The days of all instruments."""

    def __init__(self) -> None:
        self._days: dict[str, _Day] = {}
        self.clock_ms = 0

    def put(self, instrument: str, row: BarRow) -> None:
        """Takes a 1 m bar; one that is older than the day or than what is known changes nothing."""
        self.clock_ms = max(self.clock_ms, row.start_ms)
        if row.start_ms > self.clock_ms - DAY_MS:
            self._days.setdefault(instrument, _Day()).put(row)

    def of(self, instrument: str) -> Figures:
        """The figures of one instrument; zeros without a bar in the day."""
        day = self._days.get(instrument)
        return day.figures(self.clock_ms) if day else _sum({})

    def ranking(self, leaderboard: str) -> list[tuple[str, Decimal]]:
        """All instruments that traded in the day with their figure, best first, ties by name."""
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


def _sum(minutes: dict[int, _Minute]) -> Figures:
    volume = quote = Decimal(0)
    trades = 0
    for minute in minutes.values():
        volume += minute.volume
        quote += minute.quote_volume
        trades += minute.trade_count
    return Figures(volume, quote, trades, _change(minutes))


def _change(minutes: dict[int, _Minute]) -> Decimal | None:
    if not minutes:
        return None
    first = Decimal(minutes[min(minutes)].open)
    last = Decimal(minutes[max(minutes)].close)
    if not first:
        return None
    return ((last - first) * 100 / first).quantize(_CENT, rounding=ROUND_HALF_EVEN)


def texts(ranking: Iterable[tuple[str, Decimal]]) -> list[tuple[str, str]]:
    """A ranking with its figures in plain notation."""
    return [(instrument, plain(value)) for instrument, value in ranking]
