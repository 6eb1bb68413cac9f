"""One connection's state, and the limit on attempts to open one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from collector_binance.transport import Socket

ATTEMPTS: Final = 280
ATTEMPTS_SECONDS: Final = 300.0


class AttemptLimit:
    """Spreads connection attempts of this process: so many in so many seconds."""

    def __init__(self, count: int = ATTEMPTS, seconds: float = ATTEMPTS_SECONDS) -> None:
        self._count, self._seconds = count, seconds
        self._times: deque[float] = deque()

    def delay(self, now: float) -> float:
        """Seconds to wait; when 0, the attempt is counted."""
        while self._times and self._times[0] <= now - self._seconds:
            self._times.popleft()
        if len(self._times) >= self._count:
            return self._times[0] + self._seconds - now
        self._times.append(now)
        return 0.0

    async def admitted(self) -> None:
        """Wait for one's turn."""
        delay = self.delay(time.monotonic())
        while delay > 0:
            await asyncio.sleep(delay)
            delay = self.delay(time.monotonic())


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection and what is asked of it."""

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
    """The exchange refuses a control message."""


class Reply(msgspec.Struct):
    """An answer to a control message."""

    id: int | str | None = None
    code: int | None = None
    msg: str | None = None
    error: Any = None


def read_reply(frame: bytes) -> Reply | None:
    """The answer in a frame; None for what only looks like one."""
    try:
        return msgspec.json.decode(frame, type=Reply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
