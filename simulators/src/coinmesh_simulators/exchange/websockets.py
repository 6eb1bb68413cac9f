"""The WebSocket side: connections, control messages, pings and the limits that cut a connection.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md
"""

import asyncio
import json
import logging
import re
import time
from collections import deque
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web

from coinmesh_simulators.exchange.bars import INTERVALS
from coinmesh_simulators.exchange.exchange import Exchange
from coinmesh_simulators.exchange.faults import Fault, Kind
from coinmesh_simulators.exchange.hub import envelope, text_frame
from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.settings import SimulatorSettings
from meshkit.tls import CertificateFiles

_log = logging.getLogger(__name__)

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_STREAM = re.compile(
    r"^[^@!\s/]+@(trade|aggTrade|bookTicker|miniTicker|ticker|ticker_(1h|4h|1d)|avgPrice"
    r"|blockTrade|referencePrice|depth(5|10|20)?(@1?000?ms)?"
    rf"|kline_({'|'.join(INTERVALS)})(@[+-]\d\d:\d\d)?)$|^!(miniTicker|ticker_(1h|4h|1d))@arr$"
)
_ID = re.compile(r"^[A-Za-z0-9_-]{0,36}$")


class _InvalidRequest(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def canonical(stream: str) -> str:
    """A stream's name as it is published: `@depth@1000ms` is `@depth`."""
    return stream.removesuffix("@1000ms")


class Connection:
    """One WebSocket connection; the hub's subscriber."""

    def __init__(
        self,
        request: web.Request,
        settings: SimulatorSettings,
        lifetime: float,
        *,
        combined: bool,
        micro: bool,
    ) -> None:
        self.combined = combined
        self.micro = micro
        self.streams: dict[str, None] = {}
        self.socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=1024 * 1024
        )
        opened = time.monotonic()
        self._expires = opened + lifetime
        self.stalled = False
        self._settings = settings
        assert request.transport is not None
        self._transport = request.transport
        self._out: list[bytes] = []
        self._incoming: deque[float] = deque()
        self._last_ping = opened
        self._awaited: dict[bytes, float] = {}

    def queue(self, frame: bytes) -> None:
        """Keep a frame for the next flush."""
        self._out.append(frame)

    def flush(self) -> None:
        """Write what was queued: the same bytes for every subscriber, past aiohttp's writer."""
        out, self._out = self._out, []
        if self.stalled or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > self._settings.buffer_bytes:
            _log.warning(
                "a slow subscriber is cut: more than %d bytes unread", self._settings.buffer_bytes
            )
            self._transport.abort()
            return
        self._transport.write(b"".join(out))

    def reply(self, message: dict[str, object]) -> None:
        """Answer a control message."""
        self.queue(text_frame(json.dumps(message, separators=(",", ":")).encode()))
        self.flush()

    def _control_frame(self, opcode: int, payload: bytes) -> None:
        # Not by aiohttp's ping and pong: they wait while a slow reader's buffer is full.
        self.queue(bytes((opcode, len(payload))) + payload)
        self.flush()

    def abort(self) -> None:
        """Cut the connection without a closing handshake."""
        self._transport.abort()

    def too_many_messages(self) -> bool:
        """Count an incoming message; true above the limit per second."""
        now = time.monotonic()
        self._incoming.append(now)
        while self._incoming[0] <= now - 1:
            self._incoming.popleft()
        return len(self._incoming) > self._settings.messages_per_second

    def answer_ping(self, payload: bytes) -> None:
        """Answer the peer's ping."""
        self._control_frame(0x8A, payload)

    def pong(self, payload: bytes) -> None:
        """Take a pong: one that answers a ping of ours keeps the connection alive."""
        if payload in self._awaited:
            answered = self._awaited[payload]
            self._awaited = {p: at for p, at in self._awaited.items() if at > answered}

    async def check(self, now: float) -> None:
        """Ping when it is time; cut what doesn't answer or has lived its time."""
        if now >= self._expires:
            await self.close(WSCloseCode.GOING_AWAY, "connection lifetime")
        elif self._awaited and now - min(self._awaited.values()) > self._settings.pong_timeout:
            await self.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
        elif now - self._last_ping >= self._settings.ping_interval and not self.stalled:
            self._last_ping = now
            payload = str(time.time_ns() // 1_000_000).encode()
            self._awaited[payload] = now
            self._control_frame(0x89, payload)

    async def close(self, code: int, reason: str) -> None:
        """Close; a peer that doesn't answer the handshake is cut."""
        try:
            async with asyncio.timeout(1):
                await self.socket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            self.abort()


class WebSocketServer:
    """Handlers of `/ws…` and `/stream`, and the watch over open connections."""

    def __init__(self, exchange: Exchange, settings: SimulatorSettings, limits: Limits) -> None:
        self._exchange = exchange
        self._settings = settings
        self._limits = limits
        self.connections: set[Connection] = set()

    def add_routes(self, app: web.Application) -> None:
        """Register the paths."""
        app.router.add_get("/stream", self._combined)
        app.router.add_get("/ws", self._raw)
        app.router.add_get("/ws/{streams:.+}", self._raw)

    async def _combined(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, request.query.get("streams", ""), combined=True)

    async def _raw(self, request: web.Request) -> web.StreamResponse:
        names = unquote(request.match_info.get("streams", ""))
        return await self._serve(request, names, combined=False)

    async def _serve(
        self, request: web.Request, names: str, *, combined: bool
    ) -> web.StreamResponse:
        if not self._limits.connect(request.remote or ""):
            return web.Response(status=429, text="too many connection attempts")
        unit = next((v for k, v in request.query.items() if k.lower() == "timeunit"), "")
        streams = list(dict.fromkeys(canonical(name) for name in names.split("/") if name))
        if unit.upper() not in ("", "MILLISECOND", "MICROSECOND"):
            return web.Response(status=400, text="invalid timeUnit")
        if len(streams) > self._settings.streams_per_connection:
            return web.Response(status=400, text="too many streams")
        connection = Connection(
            request,
            self._settings,
            self._lifetime(),
            combined=combined,
            micro=unit.upper() == "MICROSECOND",
        )
        await connection.socket.prepare(request)
        self.connections.add(connection)
        try:
            self._subscribe(connection, streams)
            await self._read(connection)
        finally:
            self.connections.discard(connection)
            self._exchange.hub.unsubscribe(connection, connection.streams)
        return connection.socket

    def _lifetime(self) -> float:
        """Seconds: the venue's day, or less, so that a connection ends before its certificate."""
        if self._settings.tls_dir is None:
            return self._settings.connection_lifetime
        pair = CertificateFiles(self._settings.tls_dir).read()
        return min(self._settings.connection_lifetime, pair.connection_seconds)

    def _subscribe(self, connection: Connection, streams: list[str]) -> None:
        fresh = [stream for stream in streams if stream not in connection.streams]
        connection.streams.update(dict.fromkeys(fresh))
        self._exchange.hub.subscribe(connection, fresh)

    async def _read(self, connection: Connection) -> None:
        while True:
            message = await connection.socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return
            if message.type is WSMsgType.ERROR:
                return
            if connection.too_many_messages():
                await connection.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
                return
            match message.type:
                case WSMsgType.PING:
                    connection.answer_ping(bytes(message.data))
                case WSMsgType.PONG:
                    connection.pong(bytes(message.data))
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    connection.reply(self._control(connection, message.data))
                case _:
                    pass

    def _control(self, connection: Connection, text: str | bytes) -> dict[str, object]:
        """The answer to a control message."""
        identity: object = None
        try:
            try:
                request = json.loads(text)
            except (ValueError, RecursionError) as error:
                line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
                raise _InvalidRequest(
                    3, f"Invalid JSON: expected value at line {line} column {column}"
                ) from error
            if not isinstance(request, dict):
                raise _InvalidRequest(2, "Invalid request: expected an object")
            identity = _identity(request)
            return {"result": self._execute(connection, request), "id": identity}
        except _InvalidRequest as error:
            return {"error": {"code": error.code, "msg": str(error)}, "id": identity}

    def _execute(self, connection: Connection, request: dict[str, object]) -> object:
        method = request.get("method")
        if method is None:
            raise _InvalidRequest(2, "Invalid request: missing field `method` at line 1 column 1")
        if method not in _METHODS:
            expected = ", ".join(f"`{name}`" for name in _METHODS)
            raise _InvalidRequest(
                2, f"Invalid request: unknown variant `{method}`, expected one of {expected}"
            )
        if request.keys() - {"method", "params", "id"}:
            raise _InvalidRequest(2, "Invalid request: too many parameters")
        params = request.get("params") or []
        if not isinstance(params, list):
            raise _InvalidRequest(2, "Invalid request: params must be an array")
        if method == "LIST_SUBSCRIPTIONS":
            return list(connection.streams)
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(connection, params, change=method == "SET_PROPERTY")
        streams = list(dict.fromkeys(canonical(name) for name in params if isinstance(name, str)))
        if len(params) == 0 or not all(isinstance(name, str) for name in params):
            raise _InvalidRequest(2, "Invalid request: params must be stream names")
        if not all(_STREAM.match(stream) for stream in streams):
            raise _InvalidRequest(2, "Invalid request: invalid stream")
        if method == "UNSUBSCRIBE":
            gone = [stream for stream in streams if stream in connection.streams]
            for stream in gone:
                del connection.streams[stream]
            self._exchange.hub.unsubscribe(connection, gone)
            return None
        if len(connection.streams.keys() | set(streams)) > self._settings.streams_per_connection:
            raise _InvalidRequest(2, "Invalid request: too many streams")
        self._subscribe(connection, streams)
        return None

    def _property(self, connection: Connection, params: list[object], *, change: bool) -> object:
        if not params or not isinstance(params[0], str):
            raise _InvalidRequest(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise _InvalidRequest(0, "Unknown property")
        if len(params) > (2 if change else 1):
            raise _InvalidRequest(2, "Invalid request: too many parameters")
        if not change:
            return connection.combined
        if len(params) < 2 or not isinstance(params[1], bool):
            raise _InvalidRequest(1, "Invalid value type: expected Boolean")
        self._exchange.hub.unsubscribe(connection, connection.streams)
        connection.combined = params[1]
        self._exchange.hub.subscribe(connection, connection.streams)
        return None

    async def close(self) -> None:
        """Close all connections: the server goes away."""
        await asyncio.gather(
            *(c.close(WSCloseCode.GOING_AWAY, "server shutdown") for c in self.connections)
        )

    # -- watch and faults -----------------------------------------------------------------------

    async def watch(self) -> None:
        """Ping and cut connections as the rules say, until cancelled."""
        period = min(1.0, self._settings.ping_interval / 4, self._settings.connection_lifetime / 4)
        while True:
            await asyncio.sleep(period)
            self.mark_stalled()
            for fault in self._exchange.faults.repeating():
                await self.strike(fault)
            now = time.monotonic()
            for connection in list(self.connections):
                try:
                    await connection.check(now)
                except ConnectionError:
                    connection.abort()

    def mark_stalled(self) -> None:
        """Let active stall faults take effect on the connections they cover."""
        faults = self._exchange.faults
        for connection in self.connections:
            connection.stalled = faults.stalling and faults.stalls(connection.streams)

    async def strike(self, fault: Fault) -> None:
        """Carry out a fault that concerns connections: disconnect, or server shutdown."""
        request = fault.request
        covered = [
            connection
            for connection in self.connections
            if (request.symbol == "*" and request.stream == "*")
            or any(fault.covers(stream) for stream in connection.streams)
        ]
        struck = [connection for connection in covered if fault.strikes()]
        if request.kind is Kind.SERVER_SHUTDOWN:
            now = self._exchange.clock.now()
            for connection in struck:
                at = now if connection.micro else now // 1000
                body = b'{"e":"serverShutdown","E":%d}' % at
                message = envelope("!serverShutdown", body) if connection.combined else body
                connection.queue(text_frame(message))
                connection.flush()
            await asyncio.sleep(request.grace_s)
            for connection in struck:
                await connection.close(WSCloseCode.GOING_AWAY, "server shutdown")
        else:
            for connection in struck:
                connection.abort()
        fault.struck()


def _identity(request: dict[str, object]) -> object:
    identity = request.get("id")
    fits = identity is None or (
        (isinstance(identity, int) and not isinstance(identity, bool) and abs(identity) < 1 << 63)
        or (isinstance(identity, str) and _ID.match(identity) is not None)
    )
    if not fits:
        raise _InvalidRequest(2, "Invalid request: request ID must be an unsigned integer")
    return identity
