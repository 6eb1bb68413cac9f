"""The exchange's REST API, within its request weight and obeying its refusals.

https://github.com/binance/binance-spot-api-docs/blob/master/rest-api.md#limits: 429 and 418 carry
Retry-After; 418 is a ban, 403 the firewall (also for rate), 451 a place that is not served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp

from collector_binance.settings import CollectorSettings
from meshkit.backoff import Backoff
from meshkit.metrics import Metrics
from meshkit.tls import client_ssl_context

_log = logging.getLogger(__name__)

DEFAULT_WEIGHT_LIMIT: Final = 6000
RESERVE: Final = 0.2
"""The share of the minute's weight that is left alone: others may share our address."""

HISTORY_PATH: Final = "/api/v3/historicalTrades"
"""The one path that the market-data host does not serve."""

_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, connect=5)
_HEADERS: Final = {"X-MBX-TIME-UNIT": "MICROSECOND"}
_WAITS: Final = {429: 5.0, 418: 120.0, 403: 60.0, 451: 300.0}
_HOST_REFUSALS: Final = (403, 451)
"""What one host refuses and another may serve; the others count our address everywhere."""
_MEANINGS: Final = {
    429: "too many requests",
    418: "our address is banned for a while",
    403: "its firewall refuses us",
    451: "it does not serve this place; set COINMESH_BINANCE_REST_URL to another of its hosts",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer.

    Attributes:
        context: Method and path with query, as recorded.
        status: The HTTP status: 200, or a 4xx that a repetition would not change at once.
        body: As received.
        receive_ns: When it was complete.
        round_trip_ns: How long it took.
    """

    context: str
    status: int
    body: bytes
    receive_ns: int
    round_trip_ns: int


class WeightBudget:
    """The request weight of the current minute: what the venue says, plus what is on its way."""

    def __init__(self) -> None:
        self.limit = DEFAULT_WEIGHT_LIMIT
        self._minute = -1
        self._used = 0

    def used(self, now: float) -> int:
        """Weight used in the minute of `now` (seconds since the epoch)."""
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._used = minute, 0
        return self._used

    def delay(self, weight: int, now: float) -> float:
        """Seconds to wait before a request of that weight; when 0, it is counted as used."""
        used = self.used(now)
        if used and used + weight > self.limit * (1 - RESERVE):
            return 60 - now % 60 + 0.05
        self._used += weight
        return 0.0

    def reported(self, used: int, now: float) -> None:
        """The venue's own count, from an answer's header."""
        self._used = max(self.used(now), used)


class RestClient:
    """Asks until there is a final answer; use it as an asynchronous context manager."""

    def __init__(self, settings: CollectorSettings, metrics: Metrics) -> None:
        self.url = settings.binance_rest_url
        self._history_url = settings.history_url
        self._settings = settings
        self.budget = WeightBudget()
        self._blocked_until = 0.0
        self._answers = metrics.counter("binance_rest_answers", "REST answers", ("status",))
        self._retries = metrics.counter("binance_rest_retries", "REST requests repeated", ("why",))
        metrics.read_gauge(
            "binance_rest_weight_used",
            "Request weight used in this minute",
            (),
            lambda: {(): self.budget.used(time.time())},
        )
        metrics.read_gauge(
            "binance_rest_weight_limit",
            "Request weight that the exchange allows in a minute",
            (),
            lambda: {(): self.budget.limit},
        )

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            ssl=(self._settings.binance_mtls and client_ssl_context(self._settings)) or True,
            limit_per_host=8,
        )
        self._session = aiohttp.ClientSession(
            headers=_HEADERS, timeout=_TIMEOUT, connector=connector
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, arguments: dict[str, str | int], weight: int) -> Answer:
        """The final answer to a GET; waits out refusals, outages and the weight's limit."""
        target = f"{path}?{urlencode(arguments)}" if arguments else path
        backoff = Backoff(base=0.25, cap=30.0)
        while True:
            await self._admitted(weight)
            try:
                answer = await self._try(target)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = str(error) or type(error).__name__
                _log.warning("the exchange at %s can't be reached: %s; retrying", self.url, problem)
                self._retries.labels("unreachable").inc()
                await backoff.wait()
                continue
            if answer is not None:
                return answer
            await backoff.wait()

    async def _admitted(self, weight: int) -> None:
        while True:
            now = time.time()
            delay = max(self._blocked_until - now, 0) or self.budget.delay(weight, now)
            if not delay:
                return
            await asyncio.sleep(delay)

    async def _try(self, target: str) -> Answer | None:
        """One request; None when it is to be repeated."""
        began = time.time_ns()
        base = self._history_url if target.startswith(HISTORY_PATH) else self.url
        async with self._session.get(base + target) as response:
            body = await response.read()
            status = response.status
            receive_ns = time.time_ns()
            self._answers.labels(str(status)).inc()
            used = response.headers.get("X-MBX-USED-WEIGHT-1M", "")
            if _is_number(used):
                self.budget.reported(int(used), time.time())
            if status in _HOST_REFUSALS and base != self.url:
                # Waiting would delay the snapshots, which the other host serves.
                _log.warning(
                    "%s refuses past trades with %s; set COINMESH_BINANCE_HISTORY_URL to another "
                    "host of the exchange",
                    base,
                    status,
                )
            elif status in _WAITS:
                self._refused(status, response.headers.get("Retry-After", ""))
                return None
            if status >= 500:
                _log.warning("the exchange answers %s to %s; retrying", status, target)
                self._retries.labels(str(status)).inc()
                return None
        return Answer(f"GET {target}", status, body, receive_ns, receive_ns - began)

    def _refused(self, status: int, retry_after: str) -> None:
        wait = float(retry_after) if _is_number(retry_after) else _WAITS[status]
        self._blocked_until = max(self._blocked_until, time.time() + wait)
        self._retries.labels(str(status)).inc()
        _log.warning(
            "the exchange at %s answers %s: %s; asking again in %.0f s",
            self.url,
            status,
            _MEANINGS[status],
            wait,
        )


def _is_number(text: str) -> bool:
    """Whether a header is a number: `isdigit` alone accepts digits that `int` rejects."""
    return text.isascii() and text.isdigit()
