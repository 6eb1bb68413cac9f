"""The responses of `GET /api/v3/…`, from the same market as the streams.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md
"""

import json
import random
import re

from coinmesh_simulators.exchange.amounts import quote_amount, quote_text, to_text
from coinmesh_simulators.exchange.bars import HOUR, INTERVALS, MINUTE, window
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import Fault, Kind
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.market import SymbolMarket
from coinmesh_simulators.exchange.parameters import ApiError, Query
from coinmesh_simulators.exchange.past_books import MOST_EVENTS
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.exchange.store import TradeRow

#: Weights of snapshots' ages in depth events; None is the present book, between two events.
_AGES: dict[int | None, int] = {None: 70, 0: 20, 1: 7, 3: 2, MOST_EVENTS: 1}
_ZONE = re.compile(r"([+-]?)(\d{1,2})(?::([0-5]\d))?", re.ASCII)


class MarketData:
    """Build responses to requests with checked parameters."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self._random = random.Random(settings.seed)
        self._stale: dict[str, dict[str, object]] = {}

    def time(self, query: Query) -> object:
        """Return `time`."""
        return {"serverTime": self._exchange.clock.now() // query.per_unit}

    def info(self, query: Query) -> object:
        """Return `exchangeInfo`; symbols in another status than requested are omitted."""
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
        """Save present snapshots for the stale-snapshot fault (`*` is every symbol)."""
        for name, market in self._exchange.markets.items():
            if symbol in ("*", name):
                self._stale[name] = market.snapshot(5000)

    def depth(self, query: Query) -> object:
        """Return `depth`: at most 5000 levels per side, from memory that may lag slightly."""
        market = query.market()
        limit = query.limit(100, 5000)
        name = market.instrument.symbol
        if name in self._stale and self._fault(Kind.STALE_SNAPSHOT, query, market):
            return {
                key: value[:limit] if isinstance(value, list) else value
                for key, value in self._stale[name].items()
            }
        events_ago: int | None = 0
        if not self._settings.aligned_snapshots:
            events_ago = self._random.choices(list(_AGES), weights=list(_AGES.values()))[0]
        return market.snapshot(limit, events_ago)

    def trades(self, query: Query) -> object:
        """Return `trades`: the newest, from memory."""
        market = query.market()
        rows = self._exchange.store.last_trades(market.key, query.limit(500, 1000))
        return [_trade(row, query.per_unit) for row in rows]

    def historical_trades(self, query: Query) -> object:
        """Return `historicalTrades` from the database; a pruned `fromId` is replaced."""
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        last = self._newest(query, market)
        store = self._exchange.store
        if first is None:
            rows = store.last_trades(market.key, limit, last)
        else:
            first = max(first, self._oldest(market), self._floor(query, market))
            rows = store.trades_from(market.key, first, limit)
        return [_trade(row, query.per_unit) for row in rows if row.id <= last]

    def aggregates(self, query: Query) -> object:
        """Return `aggTrades` from the database."""
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        start, end = query.times()
        if first is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        store = self._exchange.store
        last = self._newest(query, market)
        if start is not None:
            first = store.first_aggregate(market.key, start)
        elif end is not None:
            following = store.first_aggregate(market.key, end + 1)
            first = max(0, min(following, market.aggregates.last_id + 1) - limit)
        elif first is None:
            first = max(0, market.aggregates.last_id - limit + 1)
        else:
            first = max(first, self._floor(query, market))
        first = max(first, self._oldest_aggregate(market))
        groups: dict[int, list[TradeRow]] = {}
        for row in store.aggregates(market.key, first, limit):
            groups.setdefault(row.aggregate, []).append(row)
        answer = [
            _aggregate(rows, query.per_unit)
            for rows in groups.values()
            if rows[-1].id <= last and (end is None or rows[0].time <= end)
        ]
        if answer and self._fault(Kind.VOID_AGGREGATE, query, market):
            answer[len(answer) // 2] |= {"p": "0", "q": "0", "f": -1, "l": -1}
        return answer

    def klines(self, query: Query) -> object:
        """Return `klines` and `uiKlines` from the database; `timeZone` shifts the bars."""
        market = query.market()
        interval = query.mandatory("interval")
        if interval not in INTERVALS:
            raise ApiError(-1120, "Invalid interval.")
        zone = _zone(query.text("timeZone") or "0")
        limit = query.limit(500, 1000)
        start, end = query.times()
        latest = market.klines.latest(interval, zone)
        end = latest if end is None else end
        if start is None:
            start = min(end, latest)
            for _ in range(limit - 1):
                start = window(interval, start, zone)[0] - 1
            start = max(0, window(interval, start, zone)[0])
        last = self._newest(query, market)
        rows = market.klines.rows(interval, start, end + 1, limit, last=last, zone=zone)
        return [bar.row(query.per_unit) for bar in rows]

    def _newest(self, query: Query, market: SymbolMarket) -> int:
        """Return the newest trade id visible in the database."""
        lag = self._settings.database_lag
        fault = self._fault(Kind.HISTORY_LAG, query, market)
        if fault is not None:
            lag = max(lag, fault.request.delay_ms / 1000)
        return market.database.last_id(lag) if lag else market.last_trade

    def _oldest(self, market: SymbolMarket) -> int:
        """Return the oldest retained trade id, whether older ones have been pruned yet or not."""
        return market.last_trade - self._settings.history + 1

    def _oldest_aggregate(self, market: SymbolMarket) -> int:
        """Return the oldest aggregate whose trades are all retained."""
        oldest = self._oldest(market)
        kept = self._exchange.store.trades_from(market.key, oldest, 1)
        return kept[0].aggregate + (kept[0].id == oldest) if kept else 0

    def _floor(self, query: Query, market: SymbolMarket) -> int:
        fault = self._fault(Kind.HISTORY_FLOOR, query, market)
        return fault.request.floor_id if fault is not None else 0

    def _fault(self, kind: Kind, query: Query, market: SymbolMarket) -> Fault | None:
        return self._exchange.faults.request_fault(
            (kind,), query.path, market.instrument.symbol, query.host
        )


def _zone(text: str) -> int:
    """Return the offset from UTC in µs of `-1:00`, `05:45`, `8`; from -12:00 to +14:00."""
    parts = _ZONE.fullmatch(text)
    if parts is not None:
        sign, hours, minutes = parts.groups()
        zone = (int(hours) * HOUR + int(minutes or 0) * MINUTE) * (-1 if sign == "-" else 1)
        if -12 * HOUR <= zone <= 14 * HOUR:
            return zone
    raise ApiError(-1130, "Data sent for parameter 'timeZone' is not valid.")


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
