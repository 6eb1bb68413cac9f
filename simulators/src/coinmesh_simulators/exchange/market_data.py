"""The answers of `GET /api/v3/…`: the market of the streams.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md
"""

import json
import random

from coinmesh_simulators.exchange.amounts import quote_amount, quote_text, to_text
from coinmesh_simulators.exchange.bars import INTERVALS, window
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import Fault, Kind
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.market import SnapshotAge, SymbolMarket
from coinmesh_simulators.exchange.parameters import ApiError, Query
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.exchange.store import TradeRow

#: How often a snapshot shows which moment; most are between two depth events, some are too old.
_AGES = {SnapshotAge.NOW: 70, SnapshotAge.LAST_EVENT: 20, SnapshotAge.EVENT_BEFORE: 10}
_UTC = (None, "0", "0:00", "00:00", "+00:00")


class MarketData:
    """Answers requests whose parameters are checked."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self._random = random.Random(settings.seed)
        self._stale: dict[str, dict[str, object]] = {}

    def time(self, query: Query) -> object:
        """`time`."""
        return {"serverTime": self._exchange.clock.now() // query.per_unit}

    def info(self, query: Query) -> object:
        """`exchangeInfo`; symbols in another status than requested are left out."""
        one, several, status = query.text("symbol"), query.text("symbols"), query.status()
        if sum(value is not None for value in (one, several, status)) > 1:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        markets = list(self._exchange.markets.values())
        if one is not None:
            markets = [query.market_of(one)]
        elif several is not None:
            markets = [query.market_of(name) for name in _names(several)]
        elif status is not None:
            markets = [market for market in markets if market.status is status]
        limits = (
            ("REQUEST_WEIGHT", "MINUTE", 1, self._limits.weight_per_minute),
            ("ORDERS", "SECOND", 10, 100),
            ("ORDERS", "DAY", 1, 200_000),
            ("RAW_REQUESTS", "MINUTE", 5, self._limits.raw_requests),
        )
        return {
            "timezone": "UTC",
            "serverTime": self._exchange.clock.now() // query.per_unit,
            "rateLimits": [
                {"rateLimitType": kind, "interval": unit, "intervalNum": number, "limit": limit}
                for kind, unit, number, limit in limits
            ],
            "exchangeFilters": [],
            "symbols": [market.instrument.info(market.status) for market in markets],
        }

    def freeze(self, symbol: str) -> None:
        """Keep present snapshots for the stale-snapshot fault (`*` is every symbol)."""
        for name, market in self._exchange.markets.items():
            if symbol in ("*", name):
                self._stale[name] = market.snapshot(5000)

    def depth(self, query: Query) -> object:
        """`depth`: at most 5000 levels a side, read from memory that may lag a little."""
        market = query.market()
        limit = query.limit(100, 5000)
        name = market.instrument.symbol
        if name in self._stale and self._struck(Kind.STALE_SNAPSHOT, "depth", name):
            return {
                key: value[:limit] if isinstance(value, list) else value
                for key, value in self._stale[name].items()
            }
        age = SnapshotAge.LAST_EVENT
        if not self._settings.aligned_snapshots:
            age = self._random.choices(list(_AGES), weights=list(_AGES.values()))[0]
        return market.snapshot(limit, age)

    def trades(self, query: Query) -> object:
        """`trades`: the newest, from memory."""
        market = query.market()
        rows = self._exchange.store.last_trades(market.key, query.limit(500, 1000))
        return [_trade(row, query.per_unit) for row in rows]

    def historical_trades(self, query: Query) -> object:
        """`historicalTrades`: from the database; from a later id when the requested one is gone."""
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        last = self._newest(market, "historicalTrades")
        store = self._exchange.store
        if first is None:
            rows = store.last_trades(market.key, limit, last)
        else:
            first = max(first, self._floor(market, "historicalTrades"))
            rows = store.trades_from(market.key, first, limit)
        return [_trade(row, query.per_unit) for row in rows if row.id <= last]

    def aggregates(self, query: Query) -> object:
        """`aggTrades`: from the database."""
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        start, end = query.times()
        if first is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        store = self._exchange.store
        last = self._newest(market, "aggTrades")
        if start is not None:
            first = store.first_aggregate(market.key, start)
        elif end is not None:
            following = store.first_aggregate(market.key, end + 1)
            first = max(0, min(following, market.aggregates.last_id + 1) - limit)
        elif first is None:
            first = max(0, market.aggregates.last_id - limit + 1)
        else:
            first = max(first, self._floor(market, "aggTrades"))
        groups: dict[int, list[TradeRow]] = {}
        for row in store.aggregates(market.key, first, limit):
            groups.setdefault(row.aggregate, []).append(row)
        answer = [
            _aggregate(rows, query.per_unit)
            for rows in groups.values()
            if rows[-1].id <= last and (end is None or rows[0].time <= end)
        ]
        name = market.instrument.symbol
        if answer and self._struck(Kind.VOID_AGGREGATE, "aggTrades", name):
            answer[len(answer) // 2] |= {"p": "0", "q": "0", "f": -1, "l": -1}
        return answer

    def klines(self, query: Query) -> object:
        """`klines` and `uiKlines`."""
        market = query.market()
        interval = query.mandatory("interval")
        if interval not in INTERVALS:
            raise ApiError(-1120, "Invalid interval.")
        if query.text("timeZone") not in _UTC:
            raise ApiError(-1130, "Data sent for parameter 'timeZone' is not valid.")
        limit = query.limit(500, 1000)
        start, end = query.times()
        latest = market.klines.latest(interval)
        end = latest if end is None else end
        if start is None:
            start = min(end, latest)
            for _ in range(limit - 1):
                start = window(interval, start)[0] - 1
            start = max(0, window(interval, start)[0])
        rows = market.klines.rows(interval, start, end + 1, limit)
        return [bar.row(query.per_unit) for bar in rows]

    def _newest(self, market: SymbolMarket, route: str) -> int:
        """The newest trade that the database shows."""
        lag = self._settings.database_lag
        fault = self._fault(Kind.HISTORY_LAG, route, market.instrument.symbol)
        if fault is not None:
            lag = max(lag, fault.request.delay_ms / 1000)
        return market.database.last_id(lag) if lag else market.last_trade

    def _floor(self, market: SymbolMarket, route: str) -> int:
        fault = self._fault(Kind.HISTORY_FLOOR, route, market.instrument.symbol)
        return fault.request.floor_id if fault is not None else 0

    def _fault(self, kind: Kind, route: str, symbol: str) -> Fault | None:
        return self._exchange.faults.request_fault((kind,), f"/api/v3/{route}", symbol)

    def _struck(self, kind: Kind, route: str, symbol: str) -> bool:
        return self._fault(kind, route, symbol) is not None


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ApiError(
            -1100,
            "Illegal characters found in parameter 'symbols'; legal range is "
            r"""'^\["[\w\-._&&[^a-z]]{1,50}"(,"[\w\-._&&[^a-z]]{1,50}"){0,}\]$'.""",
        )
    if len(set(names)) != len(names):
        raise ApiError(-1151, "Symbol is present multiple times in the list.")
    return names


def _trade(row: TradeRow, per_unit: int) -> dict[str, object]:
    return {
        "id": row.id,
        "price": to_text(row.price),
        "qty": to_text(row.quantity),
        "quoteQty": quote_text(quote_amount(row.price, row.quantity)),
        "time": row.time // per_unit,
        "isBuyerMaker": row.buyer_is_maker,
        "isBestMatch": True,
    }


def _aggregate(rows: list[TradeRow], per_unit: int) -> dict[str, object]:
    first = rows[0]
    return {
        "a": first.aggregate,
        "p": to_text(first.price),
        "q": to_text(sum(row.quantity for row in rows)),
        "f": first.id,
        "l": rows[-1].id,
        "T": first.time // per_unit,
        "m": first.buyer_is_maker,
        "M": True,
    }
