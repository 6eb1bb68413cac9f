"""The WebSocket server: handshakes, supervision of open connections, and their faults.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md
"""

import asyncio
import time
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web

from coinmesh_simulators.exchange import profiles
from coinmesh_simulators.exchange.connection import Connection
from coinmesh_simulators.exchange.control import Control, canonical
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import REFUSING_KINDS, Fault, Kind
from coinmesh_simulators.exchange.hub import envelope, text_frame
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.refusals import refusal
from coinmesh_simulators.exchange.rest import limited, refuse
from coinmesh_simulators.exchange.settings import SimulatorSettings
from meshkit.tls import CertificateFiles

#: Shares of the skew by which successive connections receive their frames later.
_LATENCIES = (0.0, 1.0, 1 / 3, 2 / 3)


class WebSocketServer:
    """Handlers of `/ws…` and `/stream`, and the supervision of open connections."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self._control = Control(exchange.hub, settings)
        self._opened = 0
        self.connections: dict[Connection, float] = {}  # with the latency of each

    def add_routes(self, app: web.Application) -> None:
        """Register the paths."""
        for path, handler in (
            ("/stream", self._combined),
            ("/ws", self._raw),
            ("/ws/{streams:.+}", self._raw),
        ):
            for pattern in profiles.paths(path):
                app.router.add_get(pattern, handler)

    async def _combined(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, request.query.get("streams", ""), "/stream")

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, unquote(request.match_info.get("streams", "")), "/ws")

    async def _serve(self, request: web.Request, names: str, path: str) -> web.StreamResponse:
        refused = self._refuse(request, path)
        if refused is not None:
            return refused
        unit = next((v for k, v in request.query.items() if k.lower() == "timeunit"), "")
        streams = list(dict.fromkeys(canonical(name) for name in names.split("/") if name))
        if unit.upper() not in ("", "MILLISECOND", "MICROSECOND"):
            return web.Response(status=400, text="invalid timeUnit")
        if len(streams) > self._settings.streams_per_connection:
            return web.Response(status=400, text="too many streams")
        latency = self._settings.skew_ms / 1000 * _LATENCIES[self._opened % len(_LATENCIES)]
        self._opened += 1
        connection = Connection(
            request,
            self._settings,
            self._lifetime(),
            latency,
            combined=path == "/stream",
            micro=unit.upper() == "MICROSECOND",
            abrupt=not self._settings.permissive and self._opened % 2 == 0,
        )
        await connection.socket.prepare(request)
        self.connections[connection] = latency
        try:
            self._control.subscribe(connection, streams)
            self.hold_back()
            await self._read(connection, request.remote or "")
        finally:
            del self.connections[connection]
            self._exchange.hub.unsubscribe(connection, connection.streams)
        return connection.socket

    def _refuse(self, request: web.Request, path: str) -> web.Response | None:
        """Return an error instead of the handshake: wrong host, a limit, or a fault; None if OK."""
        address = request.remote or ""
        profile = profiles.profile_of(request, permissive=self._settings.permissive)
        banned = self._limits.banned(address)
        if banned is not None:
            return limited(banned, {})
        if not profile.streams:
            return refusal(404)
        if not self._limits.connect(address):
            return web.Response(status=429, text="too many connection attempts")
        fault = self._exchange.faults.request_fault(REFUSING_KINDS, path, host=profile.host)
        return refuse(request, fault, {}) if fault is not None else None

    def _lifetime(self) -> float:
        """Return a lifetime in seconds: the venue's day, or less, within the certificate's."""
        if self._settings.tls_dir is None:
            return self._settings.connection_lifetime
        pair = CertificateFiles(self._settings.tls_dir).read()
        return min(self._settings.connection_lifetime, pair.connection_seconds)

    async def _read(self, connection: Connection, address: str) -> None:
        while True:
            message = await connection.socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return
            if message.type is WSMsgType.ERROR:
                return
            if connection.too_many_messages():
                self._limits.cut(address)
                await connection.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
                return
            match message.type:
                case WSMsgType.PING:
                    connection.answer_ping(bytes(message.data))
                case WSMsgType.PONG:
                    connection.pong(bytes(message.data))
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    answer = self._control.answer(connection, message.data)
                    if answer is not None:
                        connection.reply(answer)
                case _:
                    pass

    async def close(self) -> None:
        """Close all connections because the server stops."""
        await asyncio.gather(
            *(c.close(WSCloseCode.GOING_AWAY, "server shutdown") for c in self.connections)
        )

    # -- watch and faults -----------------------------------------------------------------------

    async def watch(self) -> None:
        """Send pings and close connections according to the rules, until cancelled."""
        period = min(1.0, self._settings.ping_interval / 4, self._settings.connection_lifetime / 4)
        while True:
            await asyncio.sleep(period)
            self.hold_back()
            for fault in self._exchange.faults.repeating():
                await self.strike(fault)
            now = time.monotonic()
            for connection in list(self.connections):
                try:
                    await connection.check(now)
                except ConnectionError:
                    connection.abort()

    def hold_back(self) -> None:
        """Apply stall and skew faults to the connections that they cover."""
        faults = self._exchange.faults
        for place, (connection, latency) in enumerate(self.connections.items()):
            connection.stalled = faults.holding and faults.stalls(connection.streams)
            skewed = faults.holding and place % 2 == 1
            connection.latency = latency + (faults.skew(connection.streams) if skewed else 0.0)

    async def strike(self, fault: Fault) -> None:
        """Execute a fault of connections: disconnect, or server shutdown."""
        request = fault.request
        covered = [
            connection
            for connection in self.connections
            if (request.symbol == "*" and request.stream == "*")
            or any(fault.covers(stream) for stream in connection.streams)
        ]
        struck = [connection for connection in covered if fault.strikes()]
        if request.kind is Kind.SERVER_SHUTDOWN:
            self._announce_shutdown(struck)
            await asyncio.sleep(request.grace_s)
            for connection in struck:
                await connection.close(WSCloseCode.GOING_AWAY, "server shutdown")
        elif request.close_code is not None:
            for connection in struck:
                await connection.close(request.close_code, "closed on request")
        else:
            for connection in struck:
                connection.abort()
        fault.struck()

    def _announce_shutdown(self, connections: list[Connection]) -> None:
        now = self._exchange.clock.now()
        for connection in connections:
            at = now if connection.micro else now // 1000
            body = b'{"e":"serverShutdown","E":%d}' % at
            message = envelope("!serverShutdown", body) if connection.combined else body
            connection.queue(text_frame(message))
            connection.flush()
