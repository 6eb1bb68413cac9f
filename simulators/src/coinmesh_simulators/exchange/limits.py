"""Request weights per IP: 429 above the budget, 418 for those who go on, with Retry-After."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_STRIKES = 10  # requests after a 429 within the same minute that lead to a ban
_FIRST_BAN = 120.0
_LONGEST_BAN = 3 * 86_400.0
_CONNECTION_WINDOW = 300.0


@dataclass(slots=True)
class _Client:
    minute: int = -1
    used: int = 0
    strikes: int = 0
    bans: int = 0
    banned_until: float = 0.0
    connections: deque[float] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of charging a request: the HTTP status (200, 429 or 418) and its headers' values."""

    status: int
    used: int
    retry_after: int = 0
    banned_until_ms: int = 0


class Limits:
    """Budgets of all clients, by IP. Minutes are those of the wall clock."""

    def __init__(
        self, weight_per_minute: int, connections: int, now: Callable[[], float] = time.time
    ) -> None:
        self.weight_per_minute = weight_per_minute
        self._connections = connections
        self._now = now
        self._clients: dict[str, _Client] = {}

    def charge(self, address: str, weight: int) -> Verdict:
        """Count a request's weight."""
        now = self._now()
        client = self._clients.setdefault(address, _Client())
        if now < client.banned_until:
            return self._ban_verdict(client, now)
        minute = int(now // 60)
        if minute != client.minute:
            client.minute, client.used, client.strikes = minute, 0, 0
        client.used += weight
        if client.used <= self.weight_per_minute:
            return Verdict(200, client.used)
        client.strikes += 1
        if client.strikes > _STRIKES:
            self.ban(address, min(_FIRST_BAN * 2**client.bans, _LONGEST_BAN))
            return self._ban_verdict(client, now)
        return Verdict(429, client.used, max(1, 60 - int(now % 60)))

    def ban(self, address: str, seconds: float) -> None:
        """Ban an address."""
        client = self._clients.setdefault(address, _Client())
        client.bans += 1
        client.strikes = 0
        client.banned_until = self._now() + seconds

    def _ban_verdict(self, client: _Client, now: float) -> Verdict:
        return Verdict(
            418, client.used, int(client.banned_until - now) + 1, int(client.banned_until * 1000)
        )

    def connect(self, address: str) -> bool:
        """Count a connection attempt; false when there were too many in five minutes."""
        now = self._now()
        attempts = self._clients.setdefault(address, _Client()).connections
        while attempts and attempts[0] <= now - _CONNECTION_WINDOW:
            attempts.popleft()
        attempts.append(now)
        return len(attempts) <= self._connections
