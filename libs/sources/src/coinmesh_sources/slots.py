"""A slot: symbols on one connection, which is replaced before it is closed."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from picows import WSError

from coinmesh_sources.connections import CLOSED, STALLED, Connection, ReplyError
from meshkit.backoff import Backoff

_log = logging.getLogger(__name__)
OVERLAP_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
MAX_PATIENCE: Final = 8.0


class Carrier(Protocol):
    """Opens and closes connections for a slot."""

    async def connect(self, symbols: list[str]) -> Connection:
        """Open a connection with the symbols subscribed."""
        ...

    async def align(self, connection: Connection, symbols: list[str]) -> None:
        """Subscribe missing symbols on a connection and unsubscribe all others."""
        ...

    def is_stalled(self, connection: Connection, patience: float) -> bool:
        """Return whether a connection has been silent for `patience` times the usual limit."""
        ...

    def end(self, connection: Connection, reason: str) -> None:
        """Close a connection and record the disconnect."""
        ...


class Slot:
    """Keeps its symbols on a connection; reconnects, and replaces it before it expires."""

    def __init__(self, connections: Carrier) -> None:
        self._all = connections
        self.symbols: list[str] = []
        self.connections: list[Connection] = []
        self.task: asyncio.Task[None] | None = None
        self.subscribed = False
        self._patience = 1.0

    async def run(self) -> None:
        """Keep the connection open until cancelled."""
        backoff = Backoff(base=0.25, cap=30.0, healthy_after=60.0)
        current: Connection | None = None
        while True:
            if current is None:
                current = await self._opened(backoff)
                if current is None:
                    continue
            self.subscribed = True
            backoff.healthy()
            reason = await self._watch(current)
            if reason is None:
                current = await self._replaced(current, backoff)
                continue
            _log.warning("%s ended: %s; reconnecting", current.name, reason)
            self._drop(current, reason)
            current = None
            self.subscribed = False
            await backoff.wait()

    async def _opened(self, backoff: Backoff) -> Connection | None:
        try:
            connection = await self._all.connect(list(self.symbols))
        except (OSError, WSError, TimeoutError, ReplyError) as error:
            problem = str(error) or type(error).__name__
            _log.warning("cannot open the source's streams: %s; retrying", problem)
            await backoff.wait()
            return None
        self.connections.append(connection)
        # Symbols may have been added or removed while the connection was opened; later changes are
        # sent to it directly.
        try:
            await self._all.align(connection, self.symbols)
        except (OSError, WSError, TimeoutError, ReplyError) as error:
            self._drop(connection, str(error) or type(error).__name__)
            await backoff.wait()
            return None
        _log.info("%s carries %d symbols", connection.name, len(self.symbols))
        return connection

    async def _watch(self, connection: Connection) -> str | None:
        """Return why the connection ended; None if it must be replaced."""
        shutdown = asyncio.ensure_future(connection.shutdown.wait())
        try:
            while True:
                left = connection.expires - time.monotonic()
                await asyncio.wait(
                    {connection.socket.ended, shutdown},
                    timeout=max(0.0, min(left, LOOK_SECONDS)),
                    return_when="FIRST_COMPLETED",
                )
                if connection.socket.ended.done():
                    return connection.socket.ended.result()
                quiet = connection.socket.messages <= connection.control_messages
                if self._all.is_stalled(connection, self._patience):
                    # A quiet market is not a stall: each consecutive connection that was silent
                    # from its beginning gets twice the time of the previous one.
                    self._patience = min(MAX_PATIENCE, 2 * self._patience) if quiet else 1.0
                    return STALLED
                if not quiet:
                    self._patience = 1.0
                if shutdown.done() or time.monotonic() >= connection.expires:
                    return None
        finally:
            shutdown.cancel()

    async def _replaced(self, old: Connection, backoff: Backoff) -> Connection | None:
        """Open the new connection before closing the old one; return None if the old one ended."""
        while not old.socket.ended.done():
            replacement = await self._opened(backoff)
            if replacement is None:
                continue
            # Both are subscribed now; messages in flight on the old one may still arrive.
            await asyncio.wait({old.socket.ended}, timeout=OVERLAP_SECONDS)
            self._drop(old, CLOSED)
            return replacement
        self._drop(old, old.socket.ended.result())
        self.subscribed = False
        return None

    def _drop(self, connection: Connection, reason: str) -> None:
        self._all.end(connection, reason)
        self.connections = [each for each in self.connections if each is not connection]
