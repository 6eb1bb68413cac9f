"""One WebSocket connection: its queue of frames, its pings and its termination.

Rules: https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md
"""

import asyncio
import json
import logging
import time
from collections import deque

from aiohttp import WSCloseCode, web

from coinmesh_simulators.exchange.hub import text_frame
from coinmesh_simulators.exchange.settings import SimulatorSettings

_log = logging.getLogger(__name__)


class Connection:
    """One WebSocket connection; the hub's subscriber."""

    def __init__(
        self,
        request: web.Request,
        settings: SimulatorSettings,
        lifetime: float,
        latency: float,
        *,
        combined: bool,
        micro: bool,
        abrupt: bool,
    ) -> None:
        """Create the connection.

        Args:
            request: The handshake's request.
            settings: Limits of the connection.
            lifetime: Seconds until the connection is terminated.
            latency: Seconds that frames may wait, so that connections differ in received frames.
            combined: Whether frames have the combined-stream envelope.
            micro: Whether times are in microseconds.
            abrupt: Whether it is cut after its lifetime without a closing handshake.
        """
        self.combined = combined
        self.micro = micro
        self.latency = latency  # seconds
        self.streams: dict[str, None] = {}
        self.socket = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=1024 * 1024
        )
        opened = time.monotonic()
        self._expires = opened + lifetime
        self._abrupt = abrupt
        self.stalled = False
        self._settings = settings
        assert request.transport is not None
        self._transport = request.transport
        self._out: list[bytes] = []
        self._later: asyncio.TimerHandle | None = None
        self._incoming: deque[float] = deque()
        self._last_ping = opened
        self._awaited: dict[bytes, float] = {}

    def queue(self, frame: bytes) -> None:
        """Queue a frame for the next flush."""
        self._out.append(frame)

    def flush(self) -> None:
        """Write the queued frames, immediately or after the connection's latency."""
        if not self.latency:
            self._write()
        elif self._later is None:
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(self.latency, self._write)

    def _write(self) -> None:
        # The same bytes for every subscriber, bypassing aiohttp's writer.
        if self._later is not None:
            self._later.cancel()
            self._later = None
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
        """Send the response to a control message."""
        self.queue(text_frame(json.dumps(message, separators=(",", ":")).encode()))
        self.flush()

    def _control_frame(self, opcode: int, payload: bytes) -> None:
        # Not by aiohttp's ping and pong: they wait while a slow client's buffer is full.
        self.queue(bytes((opcode, len(payload))) + payload)
        self.flush()

    def abort(self) -> None:
        """Cut the connection without a closing handshake."""
        self._transport.abort()

    def too_many_messages(self) -> bool:
        """Count an incoming message; return whether the limit per second is exceeded."""
        now = time.monotonic()
        self._incoming.append(now)
        while self._incoming[0] <= now - 1:
            self._incoming.popleft()
        return len(self._incoming) > self._settings.messages_per_second

    def answer_ping(self, payload: bytes) -> None:
        """Answer the peer's ping."""
        self._control_frame(0x8A, payload)

    def pong(self, payload: bytes) -> None:
        """Process a pong: one that answers a ping of ours keeps the connection alive."""
        if payload in self._awaited:
            answered = self._awaited[payload]
            self._awaited = {p: at for p, at in self._awaited.items() if at > answered}

    async def check(self, now: float) -> None:
        """Send a ping when due; close an unresponsive or expired connection."""
        if now >= self._expires and self._abrupt:
            self.abort()
        elif now >= self._expires:
            await self.close(WSCloseCode.GOING_AWAY, "connection lifetime")
        elif self._awaited and now - min(self._awaited.values()) > self._settings.pong_timeout:
            await self.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
        elif now - self._last_ping >= self._settings.ping_interval and not self.stalled:
            self._last_ping = now
            payload = str(time.time_ns() // 1_000_000).encode()
            self._awaited[payload] = now
            self._control_frame(0x89, payload)

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; cut it when the peer doesn't complete the handshake."""
        self._write()
        try:
            async with asyncio.timeout(1):
                await self.socket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            self.abort()
