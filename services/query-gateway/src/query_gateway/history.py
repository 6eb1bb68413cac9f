"""What was: bars, indicators and trades from Cassandra.

A listing reads the partitions of its range. Where the range has too many of them, it reads those of
the days that have a 1 d bar: a daily bar is written with the first trade of its day.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from query_gateway.bars import BarRow, plain
from query_gateway.cassandra_session import CassandraSession
from query_gateway.intervals import DAY_MS, HOUR_MS, STORED, bucket, buckets, next_bucket
from query_gateway.live_view import IndicatorRow
from query_gateway.scanning import scan
from query_gateway.trades import TradeRow

R = TypeVar("R")
SHARDS: Final = 4
DIRECT_PARTITIONS: Final = 64
"""A range of at most so many partitions is read without asking which of them hold something."""
MAX_PARTITIONS: Final = 512
"""So many partitions are read for one request; the rest is for the next page."""
_DAYS_SECONDS: Final = 10.0
_MAX_INSTRUMENTS: Final = 4096
_FIRST_DAY_MS: Final = 1_230_768_000_000  # 2009: there is nothing older to trade
_SPAN_MS: Final = {
    "1s": HOUR_MS,
    "1m": DAY_MS,
    "5m": 7 * DAY_MS,
    "1h": 28 * DAY_MS,
    "1d": 365 * DAY_MS,
}
_SIDES: Final = {1: "buy", 2: "sell"}
_DECIMALS: Final = (
    "open, high, low, close, volume, quote_volume, vwap, taker_buy_volume, taker_buy_quote_volume"
)
_COUNTS: Final = "trade_count, first_trade_id, last_trade_id, final, revision, layer, run"
_START: Final = "to_unix_timestamp(start_time)"
_COLUMNS: Final = ", ".join(f"bar.{name}" for name in f"{_DECIMALS}, {_COUNTS}".split(", "))
_CHART: Final = ", ".join(
    f"bar.{name}" for name in "open, high, low, close, volume, final, revision, layer".split(", ")
)
_INDICATORS: Final = "indicators.outputs, indicators.revision, indicators.layer, indicators.run"
_RANGE: Final = (
    "WHERE instrument = ? AND bucket = ? AND start_time >= ? AND start_time < ? "
    "ORDER BY start_time {order} LIMIT ?"
)
_TRADES: Final = (
    "SELECT to_unix_timestamp(event_time), trade_id, event_time_us, price, size, taker_side, "
    "receive_time_ns FROM trades WHERE instrument = ? AND bucket = ? AND shard = ? "
    "AND (event_time, trade_id) >= (?, ?) AND (event_time, trade_id) < (?, ?) "
    "ORDER BY event_time {order}, trade_id {order} LIMIT ?"
)


def statements() -> dict[str, str]:
    """Every statement by name."""
    found: dict[str, str] = {
        "days": f"SELECT {_START} FROM bars_1d WHERE instrument = ? AND bucket = ?",  # noqa: S608
    }
    for order in ("ASC", "DESC"):
        where = _RANGE.format(order=order)
        for name in STORED:
            for kind, columns, table in (
                ("bars", _COLUMNS, "bars"),
                ("chart", _CHART, "bars"),
                ("indicators", _INDICATORS, "indicators"),
            ):
                found[f"{kind} {name} {order}"] = (
                    f"SELECT {_START}, {columns} FROM {table}_{name} {where}"  # noqa: S608
                )
        found[f"trades {order}"] = _TRADES.format(order=order)
    return found


class Slice(NamedTuple, Generic[R]):
    """Rows, oldest first, and the times [low_ms, high_ms) that they are complete for."""

    rows: list[R]
    low_ms: int
    high_ms: int


class IndicatorSet(NamedTuple):
    """All indicators of one bar."""

    start_ms: int
    rows: list[IndicatorRow]


class History:
    """Reads ranges of one instrument.

    Args:
        session: Cassandra.
        newest_ms: The start of the newest bar that is known otherwise, by instrument; 0 if none.
        clock: The time now in seconds.
    """

    def __init__(
        self,
        session: CassandraSession,
        newest_ms: Callable[[str], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._session, self._newest_ms, self._clock = session, newest_ms, clock
        self._days: dict[str, tuple[float, list[int]]] = {}

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
        """Bars that start in [low, high): the newest or the oldest `limit` of them.

        With `chart` only open to volume, final and version are read.
        """
        make = _chart_row if chart else _bar_row
        found = await self._rows(
            "chart" if chart else "bars",
            instrument,
            stored,
            low_ms=low_ms,
            high_ms=high_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return Slice([make(row) for row in found.rows], found.low_ms, found.high_ms)

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
        """The indicators of bars that start in [low, high), as `bars`."""
        found = await self._rows(
            "indicators",
            instrument,
            stored,
            low_ms=low_ms,
            high_ms=high_ms,
            newest_first=newest_first,
            limit=limit,
        )
        return Slice([_indicator_set(row) for row in found.rows], found.low_ms, found.high_ms)

    async def trades(
        self,
        instrument: str,
        low: tuple[int, int],
        high: tuple[int, int],
        *,
        newest_first: bool,
        limit: int,
    ) -> tuple[list[TradeRow], tuple[int, int], tuple[int, int]]:
        """Trades with low ≤ (time_ms, trade_id) < high, oldest first, and the keys between which
        they are complete."""
        order = "DESC" if newest_first else "ASC"
        partitions = await self._partitions(instrument, "1s", low[0], high[0] + 1, newest_first)
        chosen = partitions[: MAX_PARTITIONS // SHARDS]
        bounds = (low[0], low[1], high[0], high[1])

        async def read(start: int, wanted: int) -> list[TradeRow]:
            shards = await asyncio.gather(
                *(
                    self._session.fetch(
                        f"trades {order}", instrument, start, shard, *bounds, wanted
                    )
                    for shard in range(SHARDS)
                )
            )
            rows = [_trade_row(row) for rows in shards for row in rows]
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

    async def days(self, instrument: str) -> list[int]:
        """The days (their starts) on which an instrument has bars, oldest first."""
        known = self._days.get(instrument)
        now = time.monotonic()
        if known is not None and known[0] > now:
            return known[1]
        end = max(int(self._clock() * 1000), self._newest_ms(instrument)) + DAY_MS
        years = buckets("1d", _FIRST_DAY_MS, end)
        found = await asyncio.gather(
            *(self._session.fetch("days", instrument, year) for year in years)
        )
        days = sorted(row[0] for rows in found for row in rows)
        if len(self._days) >= _MAX_INSTRUMENTS:
            self._days.clear()
        self._days[instrument] = now + _DAYS_SECONDS, days
        return days

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
        partitions = await self._partitions(instrument, stored, low_ms, high_ms, newest_first)
        chosen = partitions[:MAX_PARTITIONS]
        statement = f"{kind} {stored} {'DESC' if newest_first else 'ASC'}"

        async def read(start: int, wanted: int) -> list[Any]:
            return await self._session.fetch(statement, instrument, start, low_ms, high_ms, wanted)

        likely = limit * STORED[stored] * 1000 // _SPAN_MS[stored] + 1
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

    async def _partitions(
        self, instrument: str, stored: str, low_ms: int, high_ms: int, newest_first: bool
    ) -> list[int]:
        """The partitions of [low, high) that may hold something, in the order of reading."""
        if low_ms >= high_ms:
            return []
        if (high_ms - low_ms) // _SPAN_MS[stored] < DIRECT_PARTITIONS:
            found = set(buckets(stored, low_ms, high_ms))
        else:
            # The newest are named besides: a day's first bar can be younger than the list of days.
            newest = {int(self._clock() * 1000), self._newest_ms(instrument)}
            found = {bucket(stored, ms) for ms in newest}
            for day in await self.days(instrument):
                if low_ms - DAY_MS < day < high_ms:
                    found.update(buckets(stored, day, day + DAY_MS))
            found = {
                start for start in found if start < high_ms and next_bucket(stored, start) > low_ms
            }
        return sorted(found, reverse=newest_first)


def _bar_row(row: Sequence[Any]) -> BarRow:
    decimals: Any = map(_text, row[1:10])
    return BarRow(row[0], *decimals, *row[10:])


def _chart_row(row: Sequence[Any]) -> BarRow:
    start, opened, high, low, close, volume, final, revision, layer = row
    prices = (_text(opened), _text(high), _text(low), _text(close))
    return BarRow(
        start, *prices, _text(volume), "", "", "", "", 0, 0, 0, final, revision, layer, ""
    )


def _text(value: Any) -> str:
    return "" if value is None else plain(value)


def _indicator_set(row: Sequence[Any]) -> IndicatorSet:
    start_ms, outputs, revision, layer, run = row
    rows = [
        IndicatorRow(start_ms, name, plain(value), revision, layer, run)
        for name, value in (outputs or {}).items()
    ]
    return IndicatorSet(start_ms, rows)


def _trade_row(row: Sequence[Any]) -> TradeRow:
    time_ms, trade_id, time_us, price, size, side, received = row
    return TradeRow(
        time_ms, trade_id, time_us, plain(price), plain(size), _SIDES.get(side, ""), received
    )
