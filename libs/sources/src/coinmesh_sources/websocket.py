"""One WebSocket connection on picows' core API: messages with their receive time.

picows delivers frames, so fragments are reassembled here; a frame's memory is only valid in the
callback. picows answers pings automatically.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

OnMessage = Callable[[bytes, int], None]
"""Receives a whole message and its receive time in nanoseconds since the epoch."""

MAX_FRAME_BYTES: Final = 3 << 20
_HANDSHAKE_SECONDS: Final = 10.0
_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_CLOSE: Final = WSMsgType.CLOSE


class Socket(WSListener):
    """A connection; `ended` completes with the reason once the connection is closed."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._parts: list[bytes] = []
        self._reason = ""
        self._transport: WSTransport | None = None
        self.last_message = time.monotonic()
        self.messages = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Store the transport after the handshake (picows callback)."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Process a received frame (picows callback)."""
        receive_ns = time.time_ns()
        kind = frame.msg_type
        if kind in (_TEXT, _BINARY, _CONTINUATION):
            self.last_message = time.monotonic()
            self.messages += 1
            payload = frame.get_payload_as_bytes()
            if not frame.fin:
                self._parts.append(payload)
                return
            if self._parts:
                payload = b"".join([*self._parts, payload])
                self._parts.clear()
            self._on_message(payload, receive_ns)
        elif kind == _CLOSE:
            code, text = frame.get_close_code(), frame.get_close_message()
            self._reason = f"closed by the server: {code.value if code else ''} {text!r}"
            transport.send_close(frame.get_close_code(), text)
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Complete `ended` after the connection was lost (picows callback)."""
        if not self.ended.done():
            self.ended.set_result(self._reason or "the connection broke")

    def send(self, text: bytes) -> None:
        """Send a text message; do nothing if the connection is closed."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.send(_TEXT, text)

    def close(self, reason: str) -> None:
        """Close with a reason for `ended`; no message is delivered afterwards."""
        self._on_message = _ignore
        self._reason = reason
        if self._transport is not None:
            self._transport.disconnect(graceful=False)
        if not self.ended.done():
            self.ended.set_result(reason)

    def pause(self, paused: bool) -> None:
        """Stop or resume reading; TCP flow control then throttles the server."""
        if self._transport is None or self._transport.is_disconnected:
            return
        raw = self._transport.underlying_transport
        if paused:
            raw.pause_reading()
        else:
            self.last_message = time.monotonic()
            raw.resume_reading()


def _ignore(message: bytes, receive_ns: int) -> None:
    del message, receive_ns


async def connect(url: str, on_message: OnMessage, context: ssl.SSLContext | None) -> Socket:
    """Open a connection.

    Raises:
        OSError: The server can't be reached.
        WSError: The server doesn't speak WebSocket, or rejects the connection.
        TimeoutError: The server doesn't answer in time.
    """
    async with asyncio.timeout(2 * _HANDSHAKE_SECONDS):
        _, socket = await ws_connect(
            lambda: Socket(on_message),
            url,
            ssl_context=context,
            websocket_handshake_timeout=_HANDSHAKE_SECONDS,
            max_frame_size=MAX_FRAME_BYTES,
            disconnect_on_exception=True,
        )
    # picows returns no socket if the server disconnects before the handshake is done.
    if not isinstance(socket, Socket):
        raise ConnectionError(f"{url}: the connection was closed during the handshake")
    return socket
