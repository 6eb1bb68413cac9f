"""Connections to the exchange: subscribed in chunks, monitored, replaced before they expire.

Limits (see the venue's web-socket-streams.md): at most 5 messages/s and 1024 streams on a
connection, 300 attempts in 5 minutes, a lifetime of 24 h, `serverShutdown` before a planned close.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.connections import (
    CLOSED,
    REJECTED,
    STALLED,
    AttemptLimit,
    Connection,
    ReplyError,
)
from coinmesh_sources.inputs import Input
from coinmesh_sources.slots import Slot
from coinmesh_sources.websocket import connect
from collector_binance.core.messages import STREAMS, ControlMessage, read_reply
from collector_binance.settings import CollectorSettings
from meshkit.metrics import Metrics
from meshkit.tls import certificate_files, client_ssl_context

_log = logging.getLogger(__name__)

NAMES_PER_MESSAGE: Final = 200
SECONDS_PER_MESSAGE: Final = 0.25
STREAMS_PER_CONNECTION: Final = 800
SYMBOLS_PER_CONNECTION: Final = STREAMS_PER_CONNECTION // len(STREAMS)
REPLY_SECONDS: Final = 15.0
ATTEMPTS: Final = 280
ATTEMPTS_SECONDS: Final = 300.0
# Replace a connection after this share of the time that its certificate allows.
BEFORE_CERTIFICATE: Final = 0.75
_ENDS: Final = {CLOSED: CLOSED, STALLED: STALLED, REJECTED: "rejected"}
"""Disconnect reasons with their own metric label."""
_encode: Final = msgspec.json.encode

OnInput = Callable[[Input], None]
OnFrame = Callable[[bytes, int, str], None]


def stream_names(symbol: str) -> list[str]:
    """Return the streams from which a symbol is collected."""
    return [f"{symbol.lower()}@{stream}" for stream in STREAMS.values()]


class Streams:
    """All connections; each slot carries up to 200 symbols on one connection at a time."""

    def __init__(
        self,
        settings: CollectorSettings,
        session_name: str,
        on_input: OnInput,
        on_frame: OnFrame,
        metrics: Metrics,
    ) -> None:
        self._settings, self._session = settings, session_name
        self._on_input, self._on_frame = on_input, on_frame
        self._limit = AttemptLimit(ATTEMPTS, ATTEMPTS_SECONDS)
        self._files = certificate_files(settings) if settings.binance_mtls else None
        self._tls = client_ssl_context(settings) if settings.binance_mtls else None
        self._number = 0
        self._control_id = 0
        self._reading = asyncio.Event()
        self._reading.set()
        self._pauses = 0
        self._slots: list[Slot] = []
        self._added = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open: dict[str, Connection] = {}
        self._ends = metrics.counter("source_connections_ended", "Connections ended", ("why",))
        metrics.read_gauge(
            "source_connections", "Open connections", (), lambda: {(): len(self.open)}
        )

    @property
    def symbols(self) -> list[str]:
        """Return the collected symbols, in order."""
        return sorted(symbol for slot in self._slots for symbol in slot.symbols)

    @property
    def is_live(self) -> bool:
        """Return whether every slot with symbols has a subscribed connection."""
        return self._added and all(slot.subscribed for slot in self._slots if slot.symbols)

    async def add(self, symbols: Iterable[str]) -> None:
        """Begin to collect symbols; return when they are subscribed or being connected."""
        self._added = True
        known = set(self.symbols)
        changed: list[tuple[Slot, list[str]]] = []
        for symbol in dict.fromkeys(symbols):
            if symbol in known:
                continue
            room = [slot for slot in self._slots if len(slot.symbols) < SYMBOLS_PER_CONNECTION]
            slot = room[0] if room else self._new_slot()
            slot.symbols.append(symbol)
            changed.append((slot, [symbol]))
        for slot in {id(slot): slot for slot, _ in changed}.values():
            fresh = [name for each, symbols in changed if each is slot for name in symbols]
            if slot.task is None:
                slot.task = asyncio.create_task(slot.run(), name="connection slot")
                slot.task.add_done_callback(self._slot_ended)
            else:
                for connection in list(slot.connections):
                    await self._change(connection, self.subscribe(connection, fresh))

    async def remove(self, symbol: str) -> None:
        """Stop collecting a symbol; do nothing if it is not collected."""
        for slot in self._slots:
            if symbol in slot.symbols:
                slot.symbols.remove(symbol)
                names = stream_names(symbol)
                for connection in list(slot.connections):
                    asked = self._ask(connection, "UNSUBSCRIBE", names)
                    await self._change(connection, asked)

    async def _change(self, connection: Connection, change: Awaitable[None]) -> None:
        """Await a change of subscriptions; replace the connection if it fails.

        The next connection subscribes the symbols collected by then; the slot delays attempts to
        open it while the exchange rejects them.
        """
        try:
            await change
        except ReplyError as error:
            _log.warning("%s: the exchange rejected a subscription: %s", connection.name, error)
            self.end(connection, REJECTED)
        except (OSError, TimeoutError) as error:
            _log.warning("%s: %s", connection.name, error)
            self.end(connection, "the subscription failed")

    async def watch(self) -> None:
        """Wait until cancelled; raise if a slot has failed with an unexpected error."""
        await self._failed

    async def close(self) -> None:
        """Close all connections."""
        for slot in self._slots:
            if slot.task is not None:
                slot.task.cancel()
        tasks = [slot.task for slot in self._slots if slot.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self.open.values()):
            self.end(connection, CLOSED)

    def pause(self, paused: bool) -> None:
        """Stop or resume reading from all connections."""
        if paused != self._reading.is_set():
            return
        if paused:
            self._reading.clear()
            self._pauses += 1
        else:
            self._reading.set()
        _log.log(
            logging.WARNING if paused else logging.INFO,
            "Kafka accepts nothing: reading from the exchange paused; what it sends meanwhile is "
            "read later or repaired"
            if paused
            else "Kafka accepts records: reading from the exchange resumed",
        )
        for connection in self.open.values():
            connection.socket.pause(paused)

    def is_stalled(self, connection: Connection, patience: float = 1.0) -> bool:
        """Return whether a connection has been silent for too long, by the monotonic clock."""
        silent = time.monotonic() - connection.socket.last_message
        return self._reading.is_set() and silent > patience * self._settings.binance_stall_seconds

    async def align(self, connection: Connection, symbols: list[str]) -> None:
        """Subscribe the streams that a connection lacks and unsubscribe surplus ones."""
        while True:
            wanted = {name for symbol in symbols for name in stream_names(symbol)}
            surplus = sorted(connection.streams - wanted)
            missing = sorted(wanted - connection.streams)
            if not missing and not surplus:
                return
            for method, names in (("UNSUBSCRIBE", surplus), ("SUBSCRIBE", missing)):
                for start in range(0, len(names), NAMES_PER_MESSAGE):
                    await self._ask(connection, method, names[start : start + NAMES_PER_MESSAGE])

    def on_reply(self, name: str, frame: bytes) -> None:
        """Process an answer to a control message, or the announcement of a shutdown."""
        connection = self.open.get(name)
        if connection is None:
            return
        connection.control_messages += 1
        if b"serverShutdown" in frame:
            _log.info("the exchange will close %s; opening another", name)
            connection.shutdown.set()
            return
        reply = read_reply(frame)
        if reply is None:
            _log.warning(
                "%s: an answer that can't be read", name, extra={"frame": str(frame[:200])}
            )
            return
        waiting = connection.replies.pop(reply.id, None) if isinstance(reply.id, int) else None
        if waiting is None or waiting.done():
            return
        if reply.code is not None or reply.error is not None:
            waiting.set_exception(ReplyError(frame[:300].decode("utf-8", "replace")))
        else:
            waiting.set_result(frame)

    async def connect(self, symbols: list[str]) -> Connection:
        """Open a connection and subscribe it.

        Raises the errors of `websocket.connect`, and `ReplyError`.
        """
        # While reading is paused, the exchange's reply would not be read.
        await self._reading.wait()
        await self._limit.admitted()
        self._number += 1
        name = f"{self._session}/{self._number}"
        url = f"{self._settings.binance_ws_url}/stream?timeUnit=MICROSECOND"
        on_frame = self._on_frame
        # picows uses the OpenSSL context inside it, which does not reload certificate files.
        tls = self._tls and self._tls.renewed()
        socket = await connect(url, lambda frame, ns: on_frame(frame, ns, name), tls)
        life = self._life() * random.uniform(0.98, 1.02)
        connection = Connection(name, url, socket, datetime.now(UTC), time.monotonic() + life)
        self.open[name] = connection
        self._give(FrameKind.FRAME_KIND_CONNECT, name, url)
        if not self._reading.is_set():
            socket.pause(True)
        try:
            await self.subscribe(connection, symbols)
        except BaseException as error:
            is_rejected = isinstance(error, ReplyError)
            self.end(connection, REJECTED if is_rejected else "the subscription failed")
            raise
        return connection

    def _life(self) -> float:
        """Return the seconds until a connection is replaced.

        Under TLS of the mesh that is well before the exchange closes it because of the
        certificates.
        """
        life = self._settings.binance_rotation_seconds
        if self._files is None:
            return life
        return min(life, BEFORE_CERTIFICATE * self._files.read().connection_seconds)

    async def subscribe(self, connection: Connection, symbols: Iterable[str]) -> None:
        """Subscribe the symbols' streams, in chunks."""
        names = [name for symbol in symbols for name in stream_names(symbol)]
        for start in range(0, len(names), NAMES_PER_MESSAGE):
            await self._ask(connection, "SUBSCRIBE", names[start : start + NAMES_PER_MESSAGE])

    def end(self, connection: Connection, reason: str) -> None:
        """Close a connection if necessary and record its disconnect once."""
        connection.socket.close(reason)
        if self.open.pop(connection.name, None) is not None:
            self._ends.labels(_ENDS.get(reason, "broken")).inc()
            self._give(FrameKind.FRAME_KIND_DISCONNECT, connection.name, reason)

    async def _ask(self, connection: Connection, method: str, names: list[str]) -> None:
        async with connection.control:
            wait = connection.last_control + SECONDS_PER_MESSAGE - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if connection.name not in self.open:
                # Its end is recorded: a subscription after that would never be ended.
                raise ConnectionError("the connection was closed")
            connection.last_control = time.monotonic()
            self._control_id += 1
            message = ControlMessage(method=method, params=names, id=self._control_id)
            reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            connection.replies[message.id] = reply
            payload = _encode(message)
            # Recorded before it is sent, so that the routes exist when the first messages arrive.
            self._give(FrameKind.FRAME_KIND_SUBSCRIPTION, connection.name, payload=payload)
            connection.socket.send(payload)
        try:
            await self._replied(connection, reply)
        finally:
            connection.replies.pop(message.id, None)
        if method == "SUBSCRIBE":
            connection.streams.update(names)
        else:
            connection.streams.difference_update(names)

    async def _replied(self, connection: Connection, reply: asyncio.Future[bytes]) -> None:
        """Wait for a reply; time does not count while reading is paused.

        Raises:
            ReplyError: The exchange rejected the message.
            ConnectionError: The connection was closed before the reply.
            TimeoutError: No reply was received.
        """
        ended = connection.socket.ended
        while not reply.done():
            pauses = self._pauses
            done, _ = await asyncio.wait(
                {reply, ended}, timeout=REPLY_SECONDS, return_when="FIRST_COMPLETED"
            )
            if ended in done and not reply.done():
                raise ConnectionError(f"{ended.result()} while subscribing")
            if not done and self._reading.is_set() and pauses == self._pauses:
                raise TimeoutError("no reply to a control message")
        await reply

    def _give(
        self, kind: FrameKind.ValueType, name: str, context: str = "", payload: bytes = b""
    ) -> None:
        self._on_input(Input(kind, name, time.time_ns(), payload, context))

    def _new_slot(self) -> Slot:
        slot = Slot(self)
        self._slots.append(slot)
        return slot

    def _slot_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)
