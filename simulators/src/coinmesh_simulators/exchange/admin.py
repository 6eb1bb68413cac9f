"""The admin endpoint: faults on request, and the truth for tests."""

import asyncio

from aiohttp import web
from pydantic import ValidationError

from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import FaultRequest, Kind
from coinmesh_simulators.exchange.rest import RestApi
from coinmesh_simulators.exchange.websockets import WebSocketServer


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
        app.router.add_get("/admin/market/{symbol}", self._market)
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

    async def _market(self, request: web.Request) -> web.Response:
        market = self._exchange.markets.get(request.match_info["symbol"])
        if market is None:
            return web.json_response({"error": "no such symbol"}, status=404)
        return web.json_response(market.truth())

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": self._exchange.faults.report()})

    async def _add(self, request: web.Request) -> web.Response:
        try:
            wanted = FaultRequest.model_validate_json(await request.read())
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            return web.json_response({"error": details}, status=400)
        if wanted.symbol != "*" and wanted.symbol.upper() not in self._exchange.markets:
            return web.json_response({"error": f"no symbol {wanted.symbol}"}, status=400)
        fault = self._exchange.faults.add(wanted)
        if wanted.kind is Kind.STALE_SNAPSHOT:
            self._rest.freeze(wanted.symbol)
        elif wanted.kind is Kind.STALL:
            self._sockets.mark_stalled()
        elif wanted.kind in (Kind.DISCONNECT, Kind.SERVER_SHUTDOWN):
            task = asyncio.create_task(self._sockets.strike(fault))
            self._strikes.add(task)
            task.add_done_callback(self._strikes.discard)
        return web.json_response(fault.report(), status=201)

    async def _clear(self, request: web.Request) -> web.Response:
        number = request.match_info.get("id")
        if number is not None and not number.isdigit():
            return web.json_response({"error": f"{number} is not a fault's id"}, status=400)
        ended = self._exchange.faults.clear(int(number) if number is not None else None)
        self._sockets.mark_stalled()
        return web.json_response({"cleared": ended})
