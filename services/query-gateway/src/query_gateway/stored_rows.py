"""What is read from Cassandra: the statements by name, and their rows as ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from query_gateway.bars import BarRow, plain
from query_gateway.intervals import STORED
from query_gateway.live_view import IndicatorRow
from query_gateway.trades import TradeRow

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


class IndicatorSet(NamedTuple):
    """All indicators of one bar."""

    start_ms: int
    rows: list[IndicatorRow]


def bar_row(row: Sequence[Any]) -> BarRow:
    """A row of a "bars" statement."""
    decimals: Any = map(_text, row[1:10])
    return BarRow(row[0], *decimals, *row[10:])


def chart_row(row: Sequence[Any]) -> BarRow:
    """A row of a "chart" statement: what a chart doesn't show stays empty."""
    start, opened, high, low, close, volume, final, revision, layer = row
    prices = (_text(opened), _text(high), _text(low), _text(close))
    return BarRow(
        start, *prices, _text(volume), "", "", "", "", 0, 0, 0, final, revision, layer, ""
    )


def _text(value: Any) -> str:
    return "" if value is None else plain(value)


def indicator_set(row: Sequence[Any]) -> IndicatorSet:
    """A row of an "indicators" statement."""
    start_ms, outputs, revision, layer, run = row
    rows = [
        IndicatorRow(start_ms, name, plain(value), revision, layer, run)
        for name, value in (outputs or {}).items()
    ]
    return IndicatorSet(start_ms, rows)


def trade_row(row: Sequence[Any]) -> TradeRow:
    """A row of a "trades" statement."""
    time_ms, trade_id, time_us, price, size, side, received = row
    return TradeRow(
        time_ms, trade_id, time_us, plain(price), plain(size), _SIDES.get(side, ""), received
    )
