"""Limits per IP over all hosts: weights, raw requests, connections, bans.

Above a limit the status is 429, after further requests 418, both with Retry-After; bans grow from 2
minutes to 3 days (rest-api.md, "IP Limits"). WebSocket connections cut for too many messages may
also lead to a ban (web-socket-streams.md, "WebSocket Limits"); the number is not documented.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_STRIKES = 10  # requests after a 429 within the same minute that lead to a ban
_FIRST_BAN = 120.0
_LONGEST_BAN = 3 * 86_400.0
_FIVE_MINUTES = 300.0
_CUTS = 5  # connections cut within five minutes for too many messages that lead to a ban


@dataclass(slots=True)
class _Client:
    minute: int = -1
    used: int = 0
    strikes: int = 0
    bans: int = 0
    banned_until: float = 0.0
    raw_window: int = -1
    raw: int = 0
    connections: deque[float] = field(default_factory=deque)
    cuts: deque[float] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of charging a request: the HTTP status (200, 429 or 418) and its headers' values."""

    status: int
    used: int
    retry_after: int = 0
    message: str = ""


class Limits:
    """Budgets of all clients, by IP. Minutes are those of the wall clock."""

    def __init__(
        self,
        weight_per_minute: int,
        connections: int,
        now: Callable[[], float] = time.time,
        raw_requests: int = 300_000,
    ) -> None:
        self.weight_per_minute = weight_per_minute
        self.raw_requests = raw_requests
        self._connections = connections
        self._now = now
        self._clients: dict[str, _Client] = {}

    def charge(self, address: str, weight: int) -> Verdict:
        """Charge a request with its weight."""
        banned = self.banned(address)
        if banned is not None:
            return banned
        now = self._now()
        client = self._clients.setdefault(address, _Client())
        minute, window = int(now // 60), int(now // _FIVE_MINUTES)
        if minute != client.minute:
            client.minute, client.used, client.strikes = minute, 0, 0
        if window != client.raw_window:
            client.raw_window, client.raw = window, 0
        client.used += weight
        client.raw += 1
        if client.raw > self.raw_requests:
            wait = max(1, int(_FIVE_MINUTES - now % _FIVE_MINUTES))
            message = f"Too many requests; current limit is {self.raw_requests} per 5 MINUTE."
        elif client.used > self.weight_per_minute:
            wait = max(1, 60 - int(now % 60))
            message = (
                f"Too much request weight used; current limit is {self.weight_per_minute} request "
                "weight per 1 MINUTE. Please use WebSocket Streams for live updates to avoid "
                "polling the API."
            )
        else:
            return Verdict(200, client.used)
        client.strikes += 1
        if client.strikes > _STRIKES:
            self.ban(address)
            return self._ban_verdict(client, now)
        return Verdict(429, client.used, wait, message)

    def ban(self, address: str) -> None:
        """Ban an address, each time for twice as long."""
        client = self._clients.setdefault(address, _Client())
        seconds = min(_FIRST_BAN * 2**client.bans, _LONGEST_BAN)
        client.bans += 1
        client.strikes = 0
        client.banned_until = self._now() + seconds

    def banned(self, address: str) -> Verdict | None:
        """Return the rejection of an address that is banned at present."""
        client, now = self._clients.get(address), self._now()
        if client is None or now >= client.banned_until:
            return None
        return self._ban_verdict(client, now)

    def _ban_verdict(self, client: _Client, now: float) -> Verdict:
        message = (
            f"Way too much request weight used; IP banned until {int(client.banned_until * 1000)}. "
            "Please use WebSocket Streams for live updates to avoid bans."
        )
        return Verdict(418, client.used, int(client.banned_until - now) + 1, message)

    def connect(self, address: str) -> bool:
        """Count a connection attempt; return False when there were too many in five minutes."""
        attempts = self._clients.setdefault(address, _Client()).connections
        return self._count(attempts) <= self._connections

    def cut(self, address: str) -> None:
        """Count a connection cut for too many messages; repeated ones lead to a ban."""
        cuts = self._clients.setdefault(address, _Client()).cuts
        if self._count(cuts) > _CUTS:
            cuts.clear()
            self.ban(address)

    def _count(self, times: deque[float]) -> int:
        now = self._now()
        while times and times[0] <= now - _FIVE_MINUTES:
            times.popleft()
        times.append(now)
        return len(times)
