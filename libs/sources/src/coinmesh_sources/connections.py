"""The state of one connection, and the limit on connection attempts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from coinmesh_sources.websocket import Socket

STALLED: Final = "stalled"
"""Reason of a DISCONNECT: the connection received no messages."""

CLOSED: Final = "closed"
"""Reason of a DISCONNECT: the collector closed the connection and uses another."""

REJECTED: Final = "the subscription was rejected"
"""Reason of a DISCONNECT: the source rejected a subscription change on the connection."""


class AttemptLimit:
    """Limits the connection attempts of this process to `count` in `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count, self._seconds = count, seconds
        self._times: deque[float] = deque()

    def delay(self, now: float) -> float:
        """Return the seconds to wait; if 0, count the attempt."""
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._count:
            return self._times[0] + self._seconds - now
        self._times.append(now)
        return 0.0

    async def admitted(self) -> None:
        """Wait until an attempt is allowed."""
        delay = self.delay(time.monotonic())
        while delay > 0:
            await asyncio.sleep(delay)
            delay = self.delay(time.monotonic())


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection and the streams subscribed on it."""

    name: str
    url: str
    socket: Socket
    connect_time: datetime
    expires: float
    streams: set[str] = field(default_factory=set)
    control_messages: int = 0
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    control: asyncio.Lock = field(default_factory=asyncio.Lock)
    last_control: float = 0.0


class ReplyError(Exception):
    """The source rejected a control message."""
