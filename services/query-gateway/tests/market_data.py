"""Events as the collector and the Spark job make them, and a Cassandra that is a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from coinmesh_contracts.events.v1 import event_type_pb2
from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.book_update_pb2 import (
    BOOK_UPDATE_KIND_DELTA,
    BOOK_UPDATE_KIND_SNAPSHOT,
    BookUpdate,
)
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.events.v1.liveness_pb2 import (
    COVERAGE_STATE_LIVE,
    ChannelLiveness,
    CoverageState,
    Liveness,
)
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, TAKER_SIDE_SELL, Trade
from coinmesh_contracts.serving import INTERVALS, trade_partition
from meshkit.cassandra_session import cassandra_unavailable
from query_gateway import bars
from query_gateway.bars import BarRow
from query_gateway.intervals import bucket
from query_gateway.trade_backlog import Missing
from query_gateway.trades import TradeRow

INSTRUMENT = "binance.BTC-USDT"
MINUTE_MS = 60_000


def instrument(name: str = INSTRUMENT) -> Instrument:
    symbol = name.partition(".")[2]
    base, quote = symbol.split("-")[:2]
    return Instrument(
        event_id=f"{name}:instrument",
        receive_time=1,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_INSTRUMENT,
        instrument=name,
        symbol=base + quote,
        base_asset=base,
        quote_asset=quote,
        price_exponent=-8,
        size_exponent=-8,
        tick_size=1_000_000,
        lot_size=1_000,
        min_notional="5.00000000",
        status="TRADING",
    )


def trade(trade_id: int, time_us: int, name: str = INSTRUMENT, price: int = 0) -> Trade:
    return Trade(
        event_id=f"{name}:trade:{trade_id}",
        event_time=time_us,
        receive_time=time_us * 1000 + 5_000_000,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_TRADE,
        instrument=name,
        symbol="BTCUSDT",
        trade_id=trade_id,
        price_units=price or 60_000_00000000 + trade_id * 1_000_000,
        price_exponent=-8,
        size_units=100_000 + trade_id,
        size_exponent=-8,
        taker_side=TAKER_SIDE_BUY if trade_id % 2 else TAKER_SIDE_SELL,
    )


def quote(update_id: int, name: str = INSTRUMENT, bid: int = 60_000_00000000) -> Quote:
    return Quote(
        event_id=f"{name}:quote:{update_id}",
        receive_time=update_id * 1_000_000,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_QUOTE,
        instrument=name,
        symbol="BTCUSDT",
        update_id=update_id,
        bid_price_units=bid,
        bid_size_units=150_000_000,
        ask_price_units=bid + 1_000_000,
        ask_size_units=250_000_000,
        price_exponent=-8,
        size_exponent=-8,
    )


def bar(
    start_ms: int,
    interval: str = "1m",
    name: str = INSTRUMENT,
    *,
    trades: int = 3,
    final: bool = True,
    layer: int = 0,
    price: int = 60_000_00000000,
) -> Bar:
    """A bar whose sums follow from its count of trades, all at about one price."""
    volume = Decimal(trades * 100_000).scaleb(-8)
    quote_volume = volume * Decimal(price).scaleb(-8)
    seconds = INTERVALS[interval]
    return Bar(
        event_id=f"{name}:bar:{seconds}:{start_ms}:{layer}:{2 * trades + final}",
        event_time=start_ms * 1000,
        source="coinmesh",
        type=event_type_pb2.EVENT_TYPE_BAR,
        instrument=name,
        interval_seconds=seconds,
        open_units=price,
        high_units=price + trades * 1_000_000,
        low_units=price - trades * 1_000_000,
        close_units=price + 1_000_000,
        price_exponent=-8,
        size_exponent=-8,
        volume=bars.plain(volume),
        quote_volume=bars.plain(quote_volume),
        vwap=bars.vwap(quote_volume, volume, 8),
        trade_count=trades,
        taker_buy_volume=bars.plain(volume),
        taker_buy_quote_volume=bars.plain(quote_volume),
        final=final,
        revision=2 * trades + final,
        layer=layer,
        run="checkpoint/7",
        first_trade_id=start_ms,
        last_trade_id=start_ms + trades - 1,
    )


def bar_row(start_ms: int, interval: str = "1m", **fields: Any) -> BarRow:
    return bars.from_event(bar(start_ms, interval, **fields))


def indicator(
    start_ms: int, value: str, kind: str = "sma", period: int = 20, output: str = "", **more: Any
) -> IndicatorValue:
    return IndicatorValue(
        event_id=f"{INSTRUMENT}:indicator:60:{start_ms}:{kind}:{period}:{output}",
        event_time=start_ms * 1000,
        source="coinmesh",
        type=event_type_pb2.EVENT_TYPE_INDICATOR,
        instrument=INSTRUMENT,
        interval_seconds=60,
        indicator=kind,
        period=period,
        output=output,
        value=value,
        revision=more.get("revision", 1),
        run="checkpoint/7",
    )


def snapshot(
    last: int, bids: dict[int, int], asks: dict[int, int], name: str = INSTRUMENT, **more: Any
) -> BookUpdate:
    down = sorted(bids.items(), reverse=True)
    up = sorted(asks.items())
    return BookUpdate(
        event_id=f"{name}:book:snapshot:{last}",
        receive_time=1,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_BOOK,
        instrument=name,
        kind=BOOK_UPDATE_KIND_SNAPSHOT,
        first_update_id=last,
        last_update_id=last,
        bid_price_units=[price for price, _ in down],
        bid_size_units=[size for _, size in down],
        ask_price_units=[price for price, _ in up],
        ask_size_units=[size for _, size in up],
        price_exponent=-2,
        size_exponent=-3,
        **more,
    )


def delta(
    first: int,
    last: int,
    bids: dict[int, int],
    asks: dict[int, int],
    name: str = INSTRUMENT,
    **more: Any,
) -> BookUpdate:
    return BookUpdate(
        event_id=f"{name}:book:delta:{last}",
        event_time=1_700_000_000_000_000 + last,
        receive_time=1,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_BOOK,
        instrument=name,
        kind=BOOK_UPDATE_KIND_DELTA,
        first_update_id=first,
        last_update_id=last,
        bid_price_units=list(bids),
        bid_size_units=list(bids.values()),
        ask_price_units=list(asks),
        ask_size_units=list(asks.values()),
        price_exponent=-2,
        size_exponent=-3,
        **more,
    )


def liveness(
    receive_ns: int,
    *,
    collector: str = "collector-binance",
    state: CoverageState.ValueType = COVERAGE_STATE_LIVE,
    valid_seconds: int = 0,
    epoch: int = 0,
    **channels: Sequence[str],
) -> Liveness:
    """A collector's sign of life: the instruments of each channel, all in one state."""
    return Liveness(
        event_id=f"binance:liveness:s:{receive_ns // 10**9}",
        receive_time=receive_ns,
        source="binance",
        type=event_type_pb2.EVENT_TYPE_LIVENESS,
        collector=collector,
        session="s",
        channels=[
            ChannelLiveness(
                channel=name,
                instruments=instruments,
                last_receive_times=[0] * len(instruments),
                states=[state] * len(instruments),
            )
            for name, instruments in channels.items()
        ],
        valid_seconds=valid_seconds,
        epoch=epoch,
    )


def printed(text: str) -> str:
    """A plain decimal as Cassandra prints it; Python's rule for exponents is Java's."""
    return str(Decimal(text))


async def nothing_missing(_instrument: str, _floor: int | None) -> Missing:
    """A backlog whose table is never behind."""
    return Missing([], True)


class MemorySession:
    """Answers the history's statements from rows in memory, as Cassandra would."""

    def __init__(self) -> None:
        self.bars: dict[tuple[str, str], dict[int, BarRow]] = {}
        self.trades: dict[str, dict[tuple[int, int], TradeRow]] = {}
        self.indicators: dict[tuple[str, str], dict[int, tuple[dict[str, Decimal], int]]] = {}
        self.reads = 0
        self.failing: Callable[[int], bool] = lambda _read: False

    def put_bar(self, interval: str, row: BarRow, name: str = INSTRUMENT) -> None:
        """A bar, and the hourly and daily bar that the Spark job always writes with it."""
        self.bars.setdefault((name, interval), {})[row.start_ms] = row
        for longer, length in (("1h", 3_600_000), ("1d", 86_400_000)):
            start = row.start_ms - row.start_ms % length
            table = self.bars.setdefault((name, longer), {})
            table.setdefault(start, row._replace(start_ms=start))

    def put_trade(self, row: TradeRow, name: str = INSTRUMENT) -> None:
        self.trades.setdefault(name, {})[row.key] = row

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        self.reads += 1
        if self.failing(self.reads):
            raise cassandra_unavailable()
        kind, *rest = statement.split()
        if kind == "days":
            name, year = arguments
            starts = self.bars.get((name, "1d"), {})
            return [(start,) for start in starts if bucket("1d", start) == year]
        if kind == "hours":
            name, month, low, high = arguments
            starts = self.bars.get((name, "1h"), {})
            return [(at,) for at in starts if bucket("1h", at) == month and low <= at < high]
        if statement == "trade hours":
            name, low, high = arguments
            hours = {bucket("1s", row.time_ms) for row in self.trades.get(name, {}).values()}
            return [(hour,) for hour in sorted(hours) if low <= hour < high]
        if kind == "trades":
            return self._trades(rest[0], *arguments)
        return self._rows(kind, *rest, *arguments)

    def _trades(self, order: str, name: str, hour: int, shard: int, *rest: int) -> list[Any]:
        low, high, limit = (rest[0], rest[1]), (rest[2], rest[3]), rest[4]
        found = [
            (
                row.time_ms,
                row.trade_id,
                row.time_us,
                printed(row.price),
                printed(row.size),
                {"buy": 1, "sell": 2}.get(row.taker_side, 0),
                row.receive_time_ns,
            )
            for key, row in sorted(self.trades.get(name, {}).items(), reverse=order == "DESC")
            if low <= key < high
            and bucket("1s", row.time_ms) == hour
            and trade_partition(row.time_us, row.trade_id)[1] == shard
        ]
        return found[:limit]

    def _rows(
        self, kind: str, interval: str, order: str, name: str, start: int, *rest: int
    ) -> list[Any]:
        low, high, limit = rest
        table: dict[int, Any]
        table = (self.indicators if kind == "indicators" else self.bars).get((name, interval), {})
        chosen = [
            (at, table[at])
            for at in sorted(table, reverse=order == "DESC")
            if bucket(interval, at) == start and low <= at < high
        ][:limit]
        if kind == "indicators":
            return [(at, values, revision, 0, "run") for at, (values, revision) in chosen]
        if kind == "chart":
            return [
                (at, *map(printed, row[1:6]), row.final, row.revision, row.layer)
                for at, row in chosen
            ]
        return [(at, *map(printed, row[1:10]), *row[10:]) for at, row in chosen]


class Rejections:
    """The reasons of rejected records, as `DeadLetterCounter` receives them."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def send(self, _record: object, reason: str, _detail: str) -> None:
        self.reasons.append(reason)
