"""`/api/v3`: routes by host profile, request weights, and faulty responses.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md
"""

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from coinmesh_simulators.exchange import profiles
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import ANSWER_KINDS, REFUSING_KINDS, Fault, Kind
from coinmesh_simulators.exchange.limits import Limits, Verdict
from coinmesh_simulators.exchange.market_data import MarketData
from coinmesh_simulators.exchange.parameters import ApiError, Query
from coinmesh_simulators.exchange.profiles import HostProfile
from coinmesh_simulators.exchange.refusals import error, refusal, respond
from coinmesh_simulators.exchange.settings import SimulatorSettings

_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
_WEAK_HOST_ERRORS = (500, 502, 503, 504)
# "403 when the WAF Limit has been violated": known to be triggered by SQL words in a query.
_ATTACK = re.compile(r"\b(union|select|insert|drop|delete)\b.*\b(select|from|into|table)\b|<script")

Answer = Callable[[Query], object]


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint below `/api/v3/`: its weight (None: by the depth's limit) and parameters."""

    name: str
    weight: int | None
    parameters: frozenset[str]
    answer: Answer

    @property
    def path(self) -> str:
        """Return its path, without a host's name."""
        return f"/api/v3/{self.name}"


class RestApi:
    """Handlers of the public market-data endpoints."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self._random = random.Random(settings.seed)
        self.data = MarketData(exchange, settings, limits)

    def add_routes(self, app: web.Application) -> None:
        """Register the endpoints; every path not registered before is unknown."""
        data = self.data
        recent = {"symbol", "limit"}
        past = recent | {"fromId", "startTime", "endTime"}
        bars = {"symbol", "interval", "limit", "startTime", "endTime", "timeZone"}
        info = {"symbol", "symbols", "permissions", "showPermissionSets", "symbolStatus"}
        table: tuple[tuple[str, int | None, set[str], Answer], ...] = (
            ("ping", 1, set(), lambda _: {}),
            ("time", 1, set(), data.time),
            ("exchangeInfo", 20, info, data.info),
            ("depth", None, recent | {"symbolStatus"}, data.depth),
            ("trades", 25, recent, data.trades),
            ("historicalTrades", 25, recent | {"fromId"}, data.historical_trades),
            ("aggTrades", 4, past, data.aggregates),
            ("klines", 2, bars, data.klines),
            ("uiKlines", 2, bars, data.klines),
        )
        for name, weight, parameters, answer in table:
            self._add(app, Route(name, weight, frozenset(parameters), answer))
        app.router.add_route("*", "/{rest:.*}", self._unknown)

    def _add(self, app: web.Application, route: Route) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, route)

        for path in profiles.paths(route.path):
            app.router.add_get(path, handle)

    async def _unknown(self, request: web.Request) -> web.Response:
        verdict = self._limits.charge(request.remote or "", 0)
        return refusal(404) if verdict.status == 200 else limited(verdict, {})

    async def _handle(self, request: web.Request, route: Route) -> web.StreamResponse:
        profile = profiles.profile_of(request, permissive=self._settings.permissive)
        served = route.name in profile.routes
        weight = _depth_weight(request) if route.weight is None else route.weight
        # First of all: banned clients get nothing but 418, whatever the host and path.
        verdict = self._limits.charge(request.remote or "", weight if served else 0)
        used = str(verdict.used)
        headers = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        if verdict.status != 200:
            return limited(verdict, headers)
        if not served:
            return refusal(404)
        if not self._settings.permissive and _ATTACK.search(request.query_string.lower()):
            return refusal(403)
        if self._random.random() < profile.failing:
            return await self._fail(headers)
        symbol = request.query.get("symbol", "")
        fault = self._exchange.faults.request_fault(ANSWER_KINDS, route.path, symbol, profile.host)
        if fault is not None:
            return await self._faulty(request, route, profile, fault, headers)
        return self._answer(request, route, profile, headers)

    async def _fail(self, headers: dict[str, str]) -> web.Response:
        """Return a 5xx of a less stable host; 504 follows its backends' timeout."""
        status = self._random.choice(_WEAK_HOST_ERRORS)
        if status == 504:
            await asyncio.sleep(self._settings.backend_timeout)
        return refusal(status, headers=headers)

    def _answer(
        self, request: web.Request, route: Route, profile: HostProfile, headers: dict[str, str]
    ) -> web.Response:
        try:
            query = Query(self._exchange, request, route.parameters, route.path, profile.host)
            body = route.answer(query)
            query.check_read()
        except ApiError as problem:
            return error(problem.code, str(problem), problem.status, headers)
        return respond(body, 200, headers)

    async def _faulty(
        self,
        request: web.Request,
        route: Route,
        profile: HostProfile,
        fault: Fault,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        wanted = fault.request
        if wanted.kind in (Kind.TIMEOUT, Kind.SLOW):
            await asyncio.sleep(wanted.delay_ms / 1000)
        if wanted.kind in REFUSING_KINDS:
            return refuse(request, fault, headers)
        if wanted.kind is Kind.EMPTY_LIST:
            return respond([], 200, headers)
        answer = self._answer(request, route, profile, headers)
        if wanted.kind is Kind.HALF_BODY:
            whole = answer.text or ""
            answer.text = whole[: len(whole) // 2]
        elif wanted.kind is Kind.TRUNCATE:
            return await _truncated(request, answer)
        return answer


def limited(verdict: Verdict, headers: dict[str, str]) -> web.Response:
    """Return the rejection of a request above a limit, or of a banned address."""
    headers["Retry-After"] = str(verdict.retry_after)
    return error(-1003, verdict.message, verdict.status, headers)


def refuse(request: web.Request, fault: Fault, headers: dict[str, str]) -> web.Response:
    """Return the response of a rejecting fault; a reset cuts the connection."""
    wanted = fault.request
    status = {Kind.RATE_LIMIT: 429, Kind.BAN: 418, Kind.TIMEOUT: 504}.get(
        wanted.kind, wanted.status
    )
    if wanted.kind in (Kind.RATE_LIMIT, Kind.BAN):
        headers["Retry-After"] = str(wanted.retry_after_s)
    if wanted.kind is Kind.RESET:
        _cut(request)
    return refusal(status, wanted.body, wanted.code, headers)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _truncated(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Send half of a response with the full content length, then reset the connection."""
    whole = (answer.text or "").encode()
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(whole)
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    _cut(request)
    return response


def _depth_weight(request: web.Request) -> int:
    limit = request.query.get("limit", "100")
    wanted = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 9 else 100
    return next((weight for most, weight in _DEPTH_WEIGHTS if wanted <= most), 250)
