"""Paged listings that combine stored history and the live view.

A page is described by its bounds: the page after it continues at its upper bound in oldest-first
order and at its lower bound in newest-first order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, NamedTuple, TypeVar

from query_gateway import bars, trades
from query_gateway.bars import BarRow
from query_gateway.history import History
from query_gateway.intervals import Interval
from query_gateway.live_view import IndicatorRow, LiveView
from query_gateway.trade_backlog import Missing, behind
from query_gateway.trades import TradeRow

R = TypeVar("R")
B = TypeVar("B")
Key = tuple[int, int]
MAX_STORED_ROWS: Final = 20_000
"""Maximum number of stored bars read for one page of longer bars."""


class Page(NamedTuple, Generic[R, B]):
    """Rows, oldest first, and the bound at which the next page begins; None on the last."""

    rows: list[R]
    next: B | None


class Listings:
    """Reads pages of one instrument.

    Args:
        history: Stored rows.
        view: Live rows.
        backlog: Returns the trades of an instrument that a later read of history may lack, given
            the offset from which on the view has them; None if its newest isn't from Kafka.
    """

    def __init__(
        self,
        history: History,
        view: LiveView,
        backlog: Callable[[str, int | None], Awaitable[Missing]],
    ) -> None:
        self._history, self._view, self._backlog = history, view, backlog

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
        """Return bars whose windows start in [low, high): the newest or the oldest `limit` of them.

        With `chart` only open to volume and final are guaranteed to be set.
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
        # Only whole windows: the window in which reading ended belongs to the next page.
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
        """Return trades with low ≤ (time_ms, trade_id) < high: the newest or oldest `limit`."""
        ring = self._view.trade_ring(instrument)
        live = ring.between(low, high)
        # Contiguous ids prove that no trade is missing, so history needn't be read.
        newest = live[-limit - 1 :]
        if newest_first and len(newest) > limit and trades.contiguous(newest):
            return Page(newest[1:], newest[1].key)
        floor = ring.floor if ring.is_newest_live else None
        known = [] if ring.newest is None else [ring.newest.key]
        if floor is None:
            # Trades visible now are on Kafka before the end that the backlog looks up next.
            stored, above, _ = await self._history.trades(
                instrument, low, high, newest_first=True, limit=1
            )
            known += [row.key for row in stored]
            high = high if known else above
        # The table must be read after the backlog has looked up its committed offset.
        backlog = await self._backlog(instrument, floor)
        known += [row.key for row in backlog.rows[-1:]]
        if known:
            # Newer trades may become visible in the table out of order.
            time_ms, trade_id = max(known)
            high = min(high, (time_ms, trade_id + 1))
        if low >= high:
            return Page([], None)
        end = high
        if not backlog.complete:
            first = backlog.rows[0].key if backlog.rows else low
            high = min(high, first)
            if low >= high or (newest_first and high < end):
                raise behind()
        found, found_low, found_high = await self._history.trades(
            instrument, low, high, newest_first=newest_first, limit=limit + 1
        )
        unstored = [row for row in (*backlog.rows, *live) if found_low <= row.key < found_high]
        rows = trades.merge(unstored, found)
        if newest_first:
            if len(rows) > limit:
                return Page(rows[-limit:], rows[-limit].key)
            return Page(rows, found_low if found_low > low else None)
        if len(rows) > limit:
            return Page(rows[:limit], rows[limit].key)
        return Page(rows, found_high if found_high < end else None)

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
        """Return values with low ≤ (start_ms, name) < high, of one indicator or, for "", of all."""
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
