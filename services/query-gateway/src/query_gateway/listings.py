"""Listings: stored history and the live view as one, cut into pages.

A page is described by its bounds: a listing from the oldest on goes on at its upper bound, one from
the newest back at its lower bound.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

from query_gateway import bars, trades
from query_gateway.bars import BarRow
from query_gateway.history import History
from query_gateway.intervals import Interval
from query_gateway.live_view import IndicatorRow, LiveView
from query_gateway.trades import TradeRow

R = TypeVar("R")
B = TypeVar("B")
Key = tuple[int, int]
MAX_STORED_ROWS: Final = 20_000
"""At most so many stored bars are read for one page of longer bars."""


class Page(NamedTuple, Generic[R, B]):
    """Rows, oldest first, and the bound at which the next page begins; None on the last."""

    rows: list[R]
    next: B | None


class Listings:
    """Reads pages of one instrument.

    Args:
        history: What is stored.
        view: What is live.
    """

    def __init__(self, history: History, view: LiveView) -> None:
        self._history, self._view = history, view

    async def bars(
        self,
        instrument: str,
        interval: Interval,
        low_ms: int,
        high_ms: int,
        *,
        newest_first: bool,
        limit: int,
        chart: bool = False,
    ) -> Page[BarRow, int]:
        """Bars whose windows start in [low, high): the newest or the oldest `limit` of them.

        With `chart` only open to volume and final are certain to be filled in.
        """
        low_ms, high_ms = interval.ceil(low_ms), interval.ceil(high_ms)
        wanted = max(2, min(limit + 1, MAX_STORED_ROWS // interval.factor)) * interval.factor
        found = await self._history.bars(
            instrument,
            interval.stored,
            low_ms,
            high_ms,
            newest_first=newest_first,
            limit=wanted,
            chart=chart and interval.factor == 1,
        )
        # Only whole windows: the one in which reading ended is the next page's.
        low = interval.ceil(found.low_ms)
        high = found.high_ms if found.high_ms == high_ms else interval.floor(found.high_ms)
        live = self._view.bars(instrument, interval.stored, low, high)
        stored = [row for row in found.rows if low <= row.start_ms < high]
        merged = bars.merge(stored, live)
        rows = bars.roll_up(interval, merged, self._view.closed_until(instrument))
        if newest_first:
            if len(rows) > limit:
                return Page(rows[-limit:], rows[-limit].start_ms)
            return Page(rows, low if low > low_ms else None)
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit].start_ms)
        return Page(rows, high if high < high_ms else None)

    async def trades(
        self, instrument: str, low: Key, high: Key, *, newest_first: bool, limit: int
    ) -> Page[TradeRow, Key]:
        """Trades with low ≤ (time_ms, trade_id) < high: the newest or the oldest `limit`."""
        live = self._view.trades(instrument, low, high)
        # Dense ids prove that nothing is missing in between: history needn't be asked.
        newest = live[-limit - 1 :]
        if newest_first and len(newest) > limit and trades.contiguous(newest):
            return Page(newest[1:], newest[1].key)
        found, found_low, found_high = await self._history.trades(
            instrument, low, high, newest_first=newest_first, limit=limit + 1
        )
        rows = trades.merge(found, self._view.trades(instrument, found_low, found_high))
        if newest_first:
            if len(rows) > limit:
                return Page(rows[-limit:], rows[-limit].key)
            return Page(rows, found_low if found_low > low else None)
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit].key)
        return Page(rows, found_high if found_high < high else None)

    async def indicators(
        self,
        instrument: str,
        interval: Interval,
        low: tuple[int, str],
        high: tuple[int, str],
        name: str,
        *,
        newest_first: bool,
        limit: int,
    ) -> Page[IndicatorRow, tuple[int, str]]:
        """Values with low ≤ (start_ms, name) < high, of one indicator or, for "", of all."""
        high_ms = high[0] + bool(high[1])
        found = await self._history.indicators(
            instrument,
            interval.stored,
            low[0],
            high_ms,
            newest_first=newest_first,
            limit=limit + 1,
        )
        live = self._view.indicators(instrument, interval.stored, found.low_ms, found.high_ms)
        merged: dict[tuple[int, str], IndicatorRow] = {}
        for row in [*(row for indicators in found.rows for row in indicators.rows), *live]:
            key = row.key
            known = merged.get(key)
            if low <= key < high and (known is None or known.version < row.version):
                merged[key] = row
        rows = [merged[key] for key in sorted(merged)]
        if name:
            rows = [row for row in rows if row.name.startswith(f"{name}/")]
        if newest_first:
            if len(rows) > limit:
                return Page(rows[-limit:], rows[-limit].key)
            return Page(rows, (found.low_ms, "") if found.low_ms > low[0] else None)
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit].key)
        return Page(rows, (found.high_ms, "") if found.high_ms < high_ms else None)
