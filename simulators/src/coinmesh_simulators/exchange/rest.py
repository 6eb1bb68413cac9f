"""`/api/v3`: market data of the same market as the streams, with request weights.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md
"""

import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from coinmesh_simulators.exchange.amounts import quote_text, to_text
from coinmesh_simulators.exchange.bars import INTERVALS, window
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import Kind
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.market import SymbolMarket
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.exchange.store import TradeRow

_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))


class ApiError(Exception):
    """An error in the venue's form: `{"code": …, "msg": …}`."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


Answer = Callable[["Query"], object]


class Query:
    """The checked parameters of one request."""

    def __init__(self, exchange: Exchange, request: web.Request, names: set[str]) -> None:
        self._exchange = exchange
        self._values = request.query
        unit = request.headers.get("X-MBX-TIME-UNIT", "").upper()
        if unit not in ("", "MILLISECOND", "MICROSECOND"):
            raise ApiError(-1151, "Invalid X-MBX-TIME-UNIT header.")
        self.per_unit = 1 if unit == "MICROSECOND" else 1000
        unread = set(self._values) - names
        if unread:
            read, sent = len(self._values) - len(unread), len(self._values)
            raise ApiError(
                -1104,
                f"Not all sent parameters were read; read '{read}' parameter(s) "
                f"but was sent '{sent}'.",
            )

    def text(self, name: str) -> str | None:
        """An optional parameter."""
        return self._values.get(name)

    def market(self) -> SymbolMarket:
        """The market of the mandatory parameter `symbol`."""
        symbol = self._values.get("symbol")
        if not symbol:
            raise ApiError(
                -1102,
                "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.",
            )
        return self.market_of(symbol)

    def market_of(self, symbol: str) -> SymbolMarket:
        """A symbol's market."""
        market = self._exchange.markets.get(symbol)
        if market is None:
            raise ApiError(-1121, "Invalid symbol.")
        return market

    def integer(self, name: str) -> int | None:
        """An optional whole number."""
        value = self._values.get(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            raise ApiError(
                -1100,
                f"Illegal characters found in parameter '{name}'; "
                "legal range is '^[0-9]{1,20}$'.",
            )
        return int(value)

    def limit(self, default: int, most: int) -> int:
        """The parameter `limit`; more than the most is the most."""
        value = self.integer("limit")
        if value == 0:
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(default if value is None else value, most)

    def times(self) -> tuple[int | None, int | None]:
        """`startTime` and `endTime` (inclusive) in µs, whichever unit they were sent in."""
        start, end = self.integer("startTime"), self.integer("endTime")
        if start is not None and start < 10**14:
            start *= 1000
        if end is not None:
            end = end * 1000 + 999 if end < 10**14 else end
        return start, end


class RestApi:
    """Handlers of the public market-data endpoints."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self._stale: dict[str, dict[str, object]] = {}

    def add_routes(self, app: web.Application) -> None:
        """Register the endpoints with their weights and parameters."""
        self._route(app, "ping", 1, set(), lambda _: {})
        self._route(app, "time", 1, set(), self._time)
        self._route(
            app,
            "exchangeInfo",
            20,
            {"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"},
            self._info,
        )
        self._route(app, "depth", None, {"symbol", "limit", "symbolStatus"}, self._depth)
        self._route(app, "trades", 25, {"symbol", "limit"}, self._trades)
        self._route(app, "historicalTrades", 25, {"symbol", "limit", "fromId"}, self._trades)
        self._route(
            app,
            "aggTrades",
            4,
            {"symbol", "limit", "fromId", "startTime", "endTime"},
            self._aggregates,
        )
        klines = {"symbol", "interval", "limit", "startTime", "endTime", "timeZone"}
        self._route(app, "klines", 2, klines, self._klines)
        self._route(app, "uiKlines", 2, klines, self._klines)
        app.router.add_route("*", "/api/{rest:.*}", self._unknown)

    def _route(
        self, app: web.Application, name: str, weight: int | None, names: set[str], answer: Answer
    ) -> None:
        path = f"/api/v3/{name}"

        async def handle(request: web.Request) -> web.Response:
            charge = _depth_weight(request) if weight is None else weight
            refused, headers = self._admit(request, path, charge)
            if refused is not None:
                return refused
            try:
                body = answer(Query(self._exchange, request, names))
            except ApiError as error:
                return _error(error.code, str(error), error.status, headers)
            return _respond(body, 200, headers)

        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = handle
        app.router.add_get(path, handler)

    async def _unknown(self, request: web.Request) -> web.Response:
        return web.Response(status=404, text=f"no endpoint {request.path}")

    def _admit(
        self, request: web.Request, path: str, weight: int
    ) -> tuple[web.Response | None, dict[str, str]]:
        """Charge a request; an answer of its own when it is refused."""
        symbol = request.query.get("symbol", "")
        fault = self._exchange.faults.request_fault((Kind.RATE_LIMIT, Kind.BAN), path, symbol)
        verdict = self._limits.charge(request.remote or "", weight)
        used = str(verdict.used)
        headers = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        status, retry_after = verdict.status, verdict.retry_after
        if fault is not None:
            status = 418 if fault.request.kind is Kind.BAN else 429
            retry_after = fault.request.retry_after_s
        if status == 200:
            return None, headers
        headers["Retry-After"] = str(retry_after)
        if status == 418:
            until = verdict.banned_until_ms or (int(time.time()) + retry_after) * 1000
            message = f"Way too much request weight used; IP banned until {until}."
        else:
            message = (
                "Too much request weight used; current limit is "
                f"{self._limits.weight_per_minute} request weight per 1 MINUTE."
            )
        return _error(-1003, message, status, headers), headers

    # -- general --------------------------------------------------------------------------------

    def _time(self, query: Query) -> object:
        return {"serverTime": self._exchange.clock.now() // query.per_unit}

    def _info(self, query: Query) -> object:
        one, several = query.text("symbol"), query.text("symbols")
        if one is not None and several is not None:
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        markets = list(self._exchange.markets.values())
        if one is not None:
            markets = [query.market_of(one)]
        elif several is not None:
            try:
                names = json.loads(several)
            except ValueError:
                names = None
            if not isinstance(names, list) or not names:
                raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.")
            markets = [query.market_of(str(name)) for name in names]
        limits = (
            ("REQUEST_WEIGHT", "MINUTE", 1, self._limits.weight_per_minute),
            ("ORDERS", "SECOND", 10, 100),
            ("ORDERS", "DAY", 1, 200_000),
            ("RAW_REQUESTS", "MINUTE", 5, 300_000),
        )
        return {
            "timezone": "UTC",
            "serverTime": self._exchange.clock.now() // query.per_unit,
            "rateLimits": [
                {"rateLimitType": kind, "interval": unit, "intervalNum": number, "limit": limit}
                for kind, unit, number, limit in limits
            ],
            "exchangeFilters": [],
            "symbols": [market.instrument.info() for market in markets],
        }

    # -- market data ----------------------------------------------------------------------------

    def freeze(self, symbol: str) -> None:
        """Keep present snapshots for the stale-snapshot fault (`*` is every symbol)."""
        for name, market in self._exchange.markets.items():
            if symbol in ("*", name):
                self._stale[name] = market.snapshot(5000)

    def _depth(self, query: Query) -> object:
        market = query.market()
        limit = query.limit(100, 5000)
        name = market.instrument.symbol
        if self._exchange.faults.active and name in self._stale:
            kinds = (Kind.STALE_SNAPSHOT,)
            if self._exchange.faults.request_fault(kinds, "/api/v3/depth", name):
                stale = self._stale[name]
                return {
                    key: value[:limit] if isinstance(value, list) else value
                    for key, value in stale.items()
                }
        return market.snapshot(limit)

    def _trades(self, query: Query) -> object:
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        if first is None:
            rows = self._exchange.store.last_trades(market.key, limit)
        else:
            rows = self._exchange.store.trades_from(market.key, first, limit)
        return [
            {
                "id": row.id,
                "price": to_text(row.price),
                "qty": to_text(row.quantity),
                "quoteQty": quote_text(row.price * row.quantity),
                "time": row.time // query.per_unit,
                "isBuyerMaker": row.buyer_is_maker,
                "isBestMatch": True,
            }
            for row in rows
        ]

    def _aggregates(self, query: Query) -> object:
        market = query.market()
        limit = query.limit(500, 1000)
        first = query.integer("fromId")
        start, end = query.times()
        if first is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid.")
        store = self._exchange.store
        if start is not None or end is not None:
            first = store.first_aggregate(market.key, start or 0)
        elif first is None:
            first = max(0, market.last_aggregate - limit + 1)
        groups: dict[int, list[TradeRow]] = {}
        for row in store.aggregates(market.key, first, limit):
            groups.setdefault(row.aggregate, []).append(row)
        return [
            {
                "a": number,
                "p": to_text(rows[0].price),
                "q": to_text(sum(row.quantity for row in rows)),
                "f": rows[0].id,
                "l": rows[-1].id,
                "T": rows[0].time // query.per_unit,
                "m": rows[0].buyer_is_maker,
                "M": True,
            }
            for number, rows in groups.items()
            if end is None or rows[0].time <= end
        ]

    def _klines(self, query: Query) -> object:
        market = query.market()
        interval = query.text("interval")
        if not interval:
            raise ApiError(
                -1102,
                "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.",
            )
        if interval not in INTERVALS:
            raise ApiError(-1120, "Invalid interval.")
        if query.text("timeZone") not in (None, "0", "0:00", "00:00", "+00:00"):
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


def _depth_weight(request: web.Request) -> int:
    limit = request.query.get("limit", "100")
    wanted = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 9 else 100
    return next((weight for most, weight in _DEPTH_WEIGHTS if wanted <= most), 250)


def _respond(body: object, status: int, headers: dict[str, str]) -> web.Response:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def _error(code: int, message: str, status: int, headers: dict[str, str]) -> web.Response:
    return _respond({"code": code, "msg": message}, status, headers)
