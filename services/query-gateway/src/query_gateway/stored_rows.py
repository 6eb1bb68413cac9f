"""Cassandra statements by name, and the conversion of their rows.

Cassandra formats decimals itself: the driver would create each Decimal from a string, which is most
of the cost of a chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from coinmesh_contracts.serving import INTERVALS
from query_gateway.bars import BarRow, plain
from query_gateway.live_view import IndicatorRow
from query_gateway.trades import TradeRow

_SIDES: Final = {1: "buy", 2: "sell"}
_START: Final = "to_unix_timestamp(start_time)"


def _bar(decimals: str, others: str) -> str:
    texts = [f"CAST(bar.{name} AS text)" for name in decimals.split()]
    return ", ".join([_START, *texts, *(f"bar.{name}" for name in others.split())])


_COLUMNS: Final = _bar(
    "open high low close volume quote_volume vwap taker_buy_volume taker_buy_quote_volume",
    "trade_count first_trade_id last_trade_id final revision layer run",
)
_CHART: Final = _bar("open high low close volume", "final revision layer")
_INDICATORS: Final = (
    f"{_START}, indicators.outputs, indicators.revision, indicators.layer, indicators.run"
)
_RANGE: Final = (
    "WHERE instrument = ? AND bucket = ? AND start_time >= ? AND start_time < ? "
    "ORDER BY start_time {order} LIMIT ?"
)
_TRADES: Final = (
    "SELECT to_unix_timestamp(event_time), trade_id, event_time_us, CAST(price AS text), "
    "CAST(size AS text), taker_side, receive_time_ns FROM trades "
    "WHERE instrument = ? AND bucket = ? AND shard = ? "
    "AND (event_time, trade_id) >= (?, ?) AND (event_time, trade_id) < (?, ?) "
    "ORDER BY event_time {order}, trade_id {order} LIMIT ?"
)


def statements() -> dict[str, str]:
    """Return every statement by name."""
    found: dict[str, str] = {
        "days": f"SELECT {_START} FROM bars_1d WHERE instrument = ? AND bucket = ?",  # noqa: S608
        "hours": f"SELECT {_START} FROM bars_1h WHERE instrument = ? AND bucket = ? "  # noqa: S608
        "AND start_time >= ? AND start_time < ?",
        "trade hours": "SELECT to_unix_timestamp(hour) FROM trade_hours "
        "WHERE instrument = ? AND hour >= ? AND hour < ?",
    }
    for order in ("ASC", "DESC"):
        where = _RANGE.format(order=order)
        for name in INTERVALS:
            for kind, columns, table in (
                ("bars", _COLUMNS, "bars"),
                ("chart", _CHART, "bars"),
                ("indicators", _INDICATORS, "indicators"),
            ):
                found[f"{kind} {name} {order}"] = f"SELECT {columns} FROM {table}_{name} {where}"  # noqa: S608
        found[f"trades {order}"] = _TRADES.format(order=order)
    return found


class IndicatorSet(NamedTuple):
    """All indicators of one bar."""

    start_ms: int
    rows: list[IndicatorRow]


def text(printed: str | None) -> str:
    """Return a decimal printed by Cassandra in plain notation at its scale; "" for null.

    Java prints a number below 10^-6 with an exponent, digits and scale kept:
    https://docs.oracle.com/javase/8/docs/api/java/math/BigDecimal.html#toString--
    """
    if printed is None:
        return ""
    return plain(Decimal(printed)) if "E" in printed else printed


def bar_rows(rows: Sequence[Sequence[Any]]) -> list[BarRow]:
    """Convert the rows of a "bars" statement."""
    return [BarRow._make((row[0], *map(text, row[1:10]), *row[10:])) for row in rows]


def chart_rows(rows: Sequence[Sequence[Any]]) -> list[BarRow]:
    """Convert the rows of a "chart" statement; columns that a chart lacks stay empty."""
    return [
        BarRow._make((row[0], *map(text, row[1:6]), "", "", "", "", 0, 0, 0, *row[6:], ""))
        for row in rows
    ]


def indicator_set(row: Sequence[Any]) -> IndicatorSet:
    """Convert a row of an "indicators" statement."""
    start_ms, outputs, revision, layer, run = row
    rows = [
        IndicatorRow(start_ms, name, plain(value), revision, layer, run)
        for name, value in (outputs or {}).items()
    ]
    return IndicatorSet(start_ms, rows)


def trade_row(row: Sequence[Any]) -> TradeRow:
    """Convert a row of a "trades" statement."""
    time_ms, trade_id, time_us, price, size, side, received = row
    return TradeRow(
        time_ms, trade_id, time_us, text(price), text(size), _SIDES.get(side, ""), received
    )
