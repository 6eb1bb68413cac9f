"""The admin endpoint: fault injection, and the exchange's true state for tests."""

import asyncio
from typing import Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coinmesh_simulators.exchange.exchange import Exchange, ListingChange
from coinmesh_simulators.exchange.faults import FaultRequest, Kind
from coinmesh_simulators.exchange.listings import ListingError
from coinmesh_simulators.exchange.market import SymbolStatus
from coinmesh_simulators.exchange.rest import RestApi
from coinmesh_simulators.exchange.settings import MAX_SPEED
from coinmesh_simulators.exchange.websockets import WebSocketServer


class ListingRequest(BaseModel):
    """The body of `POST /admin/market/{symbol}`: either a new status or an action."""

    model_config = ConfigDict(extra="forbid")

    status: SymbolStatus | None = None
    action: Literal["list", "delist", "start_over"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.status is None) == (self.action is None):
            raise ValueError("give either status or action")
        return self

    def change(self) -> ListingChange:
        """Return the requested change."""
        change = self.status or self.action
        assert change is not None
        return change


class SpeedRequest(BaseModel):
    """The body of `POST /admin/speed`: market seconds per wall second, until the next start."""

    model_config = ConfigDict(extra="forbid")

    speed: float = Field(gt=0, le=MAX_SPEED)


class AdminApi:
    """Handlers of `/admin`."""

    def __init__(self, exchange: Exchange, rest: RestApi, sockets: WebSocketServer) -> None:
        self._exchange = exchange
        self._rest = rest
        self._sockets = sockets
        self._strikes: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application) -> None:
        """Register the paths."""
        app.router.add_get("/admin/status", self._status)
        app.router.add_post("/admin/speed", self._change_speed)
        app.router.add_get("/admin/market/{symbol}", self._market)
        app.router.add_post("/admin/market/{symbol}", self._change_market)
        app.router.add_get("/admin/faults", self._list)
        app.router.add_post("/admin/faults", self._add)
        app.router.add_delete("/admin/faults", self._clear)
        app.router.add_delete("/admin/faults/{id}", self._clear)

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "phase": self._exchange.phase,
                "captureLine": self._exchange.line,
                "marketTime": self._exchange.clock.now(),
                "symbols": list(self._exchange.markets),
                "connections": len(self._sockets.connections),
                "published": dict(self._exchange.hub.published),
            }
        )

    async def _change_speed(self, request: web.Request) -> web.Response:
        try:
            body = SpeedRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _invalid(error)
        self._exchange.clock.change_speed(body.speed)
        return web.json_response({"speed": body.speed})

    async def _market(self, request: web.Request) -> web.Response:
        market = self._exchange.markets.get(request.match_info["symbol"])
        if market is None:
            return web.json_response({"error": "no such symbol"}, status=404)
        return web.json_response(market.truth())

    async def _change_market(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"]
        try:
            body = ListingRequest.model_validate_json(await request.read())
            self._exchange.change_listing(symbol, body.change())
        except ValidationError as error:
            return _invalid(error)
        except ListingError as error:
            return web.json_response({"error": str(error)}, status=409)
        market = self._exchange.markets.get(symbol)
        return web.json_response(market.truth() if market else {"symbol": symbol})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": self._exchange.faults.report()})

    async def _add(self, request: web.Request) -> web.Response:
        try:
            body = FaultRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _invalid(error)
        if body.symbol != "*" and body.symbol.upper() not in self._exchange.markets:
            return web.json_response({"error": f"no symbol {body.symbol}"}, status=400)
        fault = self._exchange.faults.add(body)
        if body.kind is Kind.STALE_SNAPSHOT:
            self._rest.data.freeze(body.symbol)
        elif body.kind in (Kind.STALL, Kind.SKEW):
            self._sockets.hold_back()
        elif body.kind in (Kind.DISCONNECT, Kind.SERVER_SHUTDOWN):
            task = asyncio.create_task(self._sockets.strike(fault))
            self._strikes.add(task)
            task.add_done_callback(self._strikes.discard)
        return web.json_response(fault.report(), status=201)

    async def _clear(self, request: web.Request) -> web.Response:
        number = request.match_info.get("id")
        if number is not None and not number.isdigit():
            return web.json_response({"error": f"{number} is not a fault's id"}, status=400)
        ended = self._exchange.faults.clear(int(number) if number is not None else None)
        self._sockets.hold_back()
        return web.json_response({"cleared": ended})


def _invalid(error: ValidationError) -> web.Response:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return web.json_response({"error": details}, status=400)
