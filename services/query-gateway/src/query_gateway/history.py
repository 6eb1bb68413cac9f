"""Range queries for historical bars, indicators and trades in Cassandra.

A listing reads the retained partitions of its range. If there are many, it reads only those with
data: a daily and an hourly bar are written with the first trade of their day and hour and are
retained longer than the rest; the hours of trades are indexed by their writer before the trades.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, NamedTuple, TypeVar

from coinmesh_contracts.serving import INTERVALS, TRADE_SHARDS
from meshkit.cassandra_session import CassandraSession, cassandra_unavailable
from query_gateway.bars import BarRow
from query_gateway.intervals import DAY_MS, HOUR_MS, bucket, buckets, next_bucket
from query_gateway.scanning import scan
from query_gateway.stored_rows import IndicatorSet, bar_rows, chart_rows, indicator_set, trade_row
from query_gateway.trades import TradeRow

R = TypeVar("R")
READ_SECONDS: Final = 8.0
"""Time limit for all reads of one request."""
DIRECT_PARTITIONS: Final = 8
"""Up to this number of partitions, a range is read without looking up which have data."""
MAX_PARTITIONS: Final = 512
"""Maximum number of partitions read for one request; the next page continues after them."""
_OLD_DAYS_SECONDS: Final = 60.0
_QUICK_PARTITIONS: Final = 4
_MAX_INSTRUMENTS: Final = 4096
_FIRST_DAY_MS: Final = 1_230_768_000_000  # 2009: there are no older markets
_SPAN_MS: Final = {
    "1s": HOUR_MS,
    "1m": DAY_MS,
    "5m": 7 * DAY_MS,
    "1h": 28 * DAY_MS,
    "1d": 365 * DAY_MS,
}
_KEPT_MS: Final = {"1s": 8 * DAY_MS, "1m": 732 * DAY_MS, "5m": 732 * DAY_MS}
"""Age of rows relative to an instrument's newest bar: the tables' TTL, plus a day in which the
batch layer rewrites them."""


class Slice(NamedTuple, Generic[R]):
    """Rows, oldest first, and the times [low_ms, high_ms) for which they are complete."""

    rows: list[R]
    low_ms: int
    high_ms: int


class History:
    """Reads ranges of one instrument.

    Args:
        session: Cassandra.
        newest_ms: Returns the start of an instrument's newest bar known from other sources; 0 if
            none.
        clock: Returns the time in seconds.
        seconds: Time limit for all reads of one request.
    """

    def __init__(
        self,
        session: CassandraSession,
        newest_ms: Callable[[str], int],
        clock: Callable[[], float] = time.time,
        seconds: float = READ_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._session, self._newest_ms, self._clock = session, newest_ms, clock
        self._old_days: dict[str, tuple[float, list[int]]] = {}

    async def bars(
        self,
        instrument: str,
        stored: str,
        low_ms: int,
        high_ms: int,
        *,
        newest_first: bool,
        limit: int,
        chart: bool = False,
    ) -> Slice[BarRow]:
        """Return bars that start in [low, high): the newest or the oldest `limit` of them.

        With `chart` only open to volume, final and version are read.
        """
        make = chart_rows if chart else bar_rows
        found = await self._rows(
            "chart" if chart else "bars",
            instrument,
            stored,
            low_ms=low_ms,
            high_ms=high_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return Slice(make(found.rows), found.low_ms, found.high_ms)

    async def indicators(
        self,
        instrument: str,
        stored: str,
        low_ms: int,
        high_ms: int,
        *,
        newest_first: bool,
        limit: int,
    ) -> Slice[IndicatorSet]:
        """Return the indicators of bars that start in [low, high), as `bars`."""
        found = await self._rows(
            "indicators",
            instrument,
            stored,
            low_ms=low_ms,
            high_ms=high_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return Slice([indicator_set(row) for row in found.rows], found.low_ms, found.high_ms)

    async def trades(
        self,
        instrument: str,
        low: tuple[int, int],
        high: tuple[int, int],
        *,
        newest_first: bool,
        limit: int,
    ) -> tuple[list[TradeRow], tuple[int, int], tuple[int, int]]:
        """Return trades with low ≤ (time_ms, trade_id) < high, and the bounds of completeness.

        Rows are oldest first; they are complete between the two keys returned.
        """
        async with self._bounded():
            return await self._trades(instrument, low, high, newest_first=newest_first, limit=limit)

    async def _trades(
        self,
        instrument: str,
        low: tuple[int, int],
        high: tuple[int, int],
        *,
        newest_first: bool,
        limit: int,
    ) -> tuple[list[TradeRow], tuple[int, int], tuple[int, int]]:
        order = "DESC" if newest_first else "ASC"
        partitions = await self._trade_hours(instrument, low[0], high[0] + 1, newest_first)
        chosen = partitions[: MAX_PARTITIONS // TRADE_SHARDS]
        bounds = (low[0], low[1], high[0], high[1])

        async def read(start: int, wanted: int) -> list[TradeRow]:
            shards = await asyncio.gather(
                *(
                    self._session.fetch(
                        f"trades {order}", instrument, start, shard, *bounds, wanted
                    )
                    for shard in range(TRADE_SHARDS)
                )
            )
            rows = [trade_row(row) for rows in shards for row in rows]
            return sorted(rows, reverse=newest_first)[:wanted]

        found = await scan(chosen, read, limit, 1)
        rows = found.rows[::-1] if newest_first else found.rows
        if found.full:
            if newest_first:
                return rows, rows[0].key, high
            return rows, low, (rows[-1].time_ms, rows[-1].trade_id + 1)
        if len(chosen) < len(partitions):
            next_start = partitions[len(chosen)]
            if newest_first:
                return rows, max(low, (next_bucket("1s", next_start), 0)), high
            return rows, low, min(high, (next_start, 0))
        return rows, low, high

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError as error:
            raise cassandra_unavailable() from error

    async def days(self, instrument: str) -> list[int]:
        """Return the days (their starts) on which an instrument has bars, oldest first.

        Past years without new data are cached for a while.
        """
        now_ms, newest_ms = int(self._clock() * 1000), self._newest_ms(instrument)
        years = buckets("1d", _FIRST_DAY_MS, max(now_ms, newest_ms) + DAY_MS)
        fresh = {
            bucket("1d", ms - back) for ms in (now_ms, newest_ms) for back in (0, 365 * DAY_MS)
        }
        known = self._old_days.get(instrument)
        if known is None or known[0] < time.monotonic():
            old = await self._days_of(instrument, [year for year in years if year not in fresh])
            if len(self._old_days) >= _MAX_INSTRUMENTS:
                self._old_days.clear()
            known = self._old_days[instrument] = (time.monotonic() + _OLD_DAYS_SECONDS, old)
        recent = await self._days_of(instrument, [year for year in years if year in fresh])
        return sorted({*known[1], *recent})

    async def _hours(self, instrument: str, low_ms: int, high_ms: int) -> list[int]:
        """Return the hours of [low, high) that have bars."""
        months = buckets("1h", low_ms, min(high_ms, int(self._clock() * 1000) + DAY_MS))
        found = await asyncio.gather(
            *(self._session.fetch("hours", instrument, month, low_ms, high_ms) for month in months)
        )
        return [row[0] for rows in found for row in rows]

    async def _trade_hours(
        self, instrument: str, low_ms: int, high_ms: int, newest_first: bool
    ) -> list[int]:
        """Return the hours of [low, high) that may have trades, in the order of reading.

        The index covers all trades stored since it was introduced. Older trades are found by the
        hourly bars of the time for which they are retained.
        """
        if high_ms - low_ms < DIRECT_PARTITIONS * HOUR_MS:
            return sorted(buckets("1s", low_ms, high_ms), reverse=newest_first)
        first = bucket("1s", low_ms)
        indexed, with_bars = await asyncio.gather(
            self._session.fetch("trade hours", instrument, first, high_ms),
            self._partitions(instrument, "1s", low_ms, high_ms, newest_first),
        )
        return sorted({*(row[0] for row in indexed), *with_bars}, reverse=newest_first)

    async def _days_of(self, instrument: str, years: Sequence[int]) -> list[int]:
        found = await asyncio.gather(
            *(self._session.fetch("days", instrument, year) for year in years)
        )
        return [row[0] for rows in found for row in rows]

    async def _rows(
        self,
        kind: str,
        instrument: str,
        stored: str,
        *,
        low_ms: int,
        high_ms: int,
        newest_first: bool,
        limit: int,
    ) -> Slice[Any]:
        async with self._bounded():
            return await self._range(
                kind,
                instrument,
                stored,
                low_ms=low_ms,
                high_ms=high_ms,
                newest_first=newest_first,
                limit=limit,
            )

    async def _range(
        self,
        kind: str,
        instrument: str,
        stored: str,
        *,
        low_ms: int,
        high_ms: int,
        newest_first: bool,
        limit: int,
    ) -> Slice[Any]:
        statement = f"{kind} {stored} {'DESC' if newest_first else 'ASC'}"

        async def read(start: int, wanted: int) -> list[Any]:
            return await self._session.fetch(statement, instrument, start, low_ms, high_ms, wanted)

        likely = limit * INTERVALS[stored] * 1000 // _SPAN_MS[stored] + 1
        if newest_first:
            quick = self._newest_partitions(instrument, stored, high_ms, likely)
            found = await scan(quick, read, limit, likely)
            if found.full:
                return Slice(found.rows[::-1], found.rows[-1][0], high_ms)
        partitions = await self._partitions(instrument, stored, low_ms, high_ms, newest_first)
        chosen = partitions[:MAX_PARTITIONS]
        found = await scan(chosen, read, limit, likely)
        rows = found.rows[::-1] if newest_first else found.rows
        if found.full:
            if newest_first:
                return Slice(rows, rows[0][0], high_ms)
            return Slice(rows, low_ms, rows[-1][0] + 1)
        if len(chosen) < len(partitions):
            next_start = partitions[len(chosen)]
            if newest_first:
                return Slice(rows, max(low_ms, next_bucket(stored, next_start)), high_ms)
            return Slice(rows, low_ms, min(high_ms, next_start))
        return Slice(rows, low_ms, high_ms)

    def _newest_partitions(
        self, instrument: str, stored: str, high_ms: int, count: int
    ) -> list[int]:
        """Return the partitions below `high_ms` that most likely have the newest rows, newest
        first.

        They are contiguous. Empty if an instrument's newest row isn't known, if a row that is
        stored but not yet live may be newer than the next partition, or if too many would be read.
        """
        newest_ms = self._newest_ms(instrument)
        if not newest_ms or count > _QUICK_PARTITIONS:
            return []
        last = bucket(stored, min(newest_ms, high_ms - 1))
        after = next_bucket(stored, last)
        end_ms = min(self._clock() * 1000, high_ms - 1)
        if next_bucket(stored, after) <= end_ms:
            return []
        found = [after] if after <= end_ms else []
        for _ in range(count + 1):
            found.append(last)
            last = bucket(stored, last - 1)
        return found

    async def _partitions(
        self, instrument: str, stored: str, low_ms: int, high_ms: int, newest_first: bool
    ) -> list[int]:
        """Return the partitions of [low, high) that may have data, in the order of reading."""
        now_ms, newest_ms = int(self._clock() * 1000), self._newest_ms(instrument)
        if stored in _KEPT_MS:
            # Relative to the instrument's data: a replayed capture is written later.
            low_ms = max(low_ms, min(newest_ms or now_ms, now_ms) - _KEPT_MS[stored])
        if low_ms >= high_ms:
            return []
        if (high_ms - low_ms) // _SPAN_MS[stored] < DIRECT_PARTITIONS:
            found = set(buckets(stored, low_ms, high_ms))
        else:
            # The newest are added: a first bar can be newer than the cached list of days.
            found = {bucket(stored, ms) for ms in (now_ms, newest_ms)}
            if stored == "1s":
                found.update(await self._hours(instrument, bucket("1s", low_ms), high_ms))
            else:
                for day in await self.days(instrument):
                    if low_ms - DAY_MS < day < high_ms:
                        found.update(buckets(stored, day, day + DAY_MS))
            found = {
                start for start in found if start < high_ms and next_bucket(stored, start) > low_ms
            }
        return sorted(found, reverse=newest_first)
