"""A REST client that respects a provider's budgets and refusals.

Requests are retried until there is a final answer: 200, a 4xx that an immediate retry would not
change, or the last of several consecutive failures. A provider's limits and refusals are described
by its `RestPolicy`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from ssl import SSLContext
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp

from meshkit.backoff import Backoff
from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, connect=5)

ATTEMPTS: Final = 4
"""Number of attempts while the provider is unreachable or answers 5xx. The caller decides how to
continue after that, so that no worker is blocked by one host."""

UNREACHABLE: Final = 0
"""Status of a missing or unusable answer; its body is the reason."""

Arguments = Mapping[str, str | int]
"""Query parameters in order."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status by which a provider refuses a client for some time.

    Attributes:
        seconds: Seconds to wait if the answer has no Retry-After.
        meaning: Meaning and remedy, for the log.
        by_host: Whether the refusal applies to one host only; otherwise it applies to the client's
            address.
    """

    seconds: float
    meaning: str
    by_host: bool = False


@dataclass(frozen=True, slots=True)
class RestPolicy:
    """The documented rules of one provider.

    Attributes:
        name: The provider, for log lines.
        refusals: Refusals by status.
        headers: Headers sent with each request.
        used_header: The answer's header that reports the used part of the first budget.
        other_hosts: Base URLs of paths that the usual host does not serve.
    """

    name: str
    refusals: Mapping[int, Refusal]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    used_header: str = ""
    other_hosts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer.

    Attributes:
        context: Method and path with query, as recorded.
        status: The HTTP status: 200, a 4xx that an immediate retry would not change, or the 5xx of
            the last attempt; `UNREACHABLE` without an answer.
        body: The body as received; the reason if there is no answer.
        receive_ns: When it was complete, nanoseconds since the epoch.
        round_trip_ns: Duration of the request in nanoseconds.
    """

    context: str
    status: int
    body: bytes
    receive_ns: int
    round_trip_ns: int


class Budget:
    """Request costs in windows of the clock (weight per minute, credits per month).

    Args:
        limit: Cost allowed in a window.
        seconds: Length of a window.
        reserve: Share that is not used: other clients may share the address or the key.
    """

    def __init__(self, limit: int, seconds: int = 60, reserve: float = 0.2) -> None:
        self.limit = limit
        self._seconds, self._reserve = seconds, reserve
        self._window = -1
        self._used = 0

    def used(self, now: float) -> int:
        """Return the cost used in the window of `now` (seconds since the epoch)."""
        window = int(now // self._seconds)
        if window != self._window:
            self._window, self._used = window, 0
        return self._used

    def delay(self, cost: int, now: float) -> float:
        """Return the seconds to wait before a request of that cost; if 0, count the cost."""
        used = self.used(now)
        if used and used + cost > self.limit * (1 - self._reserve):
            return self._seconds - now % self._seconds + 0.05
        self._used += cost
        return 0.0

    def reported(self, used: int, began: float, now: float) -> None:
        """Apply the provider's count, reported in an answer's header.

        It is ignored for a request that began in an earlier window: the count may be that window's.
        """
        if int(began // self._seconds) == int(now // self._seconds):
            self._used = max(self.used(now), used)


class RestClient:
    """Sends requests until there is a final answer; use it as an asynchronous context manager.

    Args:
        url: The provider's base URL.
        policy: The provider's rules.
        budget: Limits the cost of requests.
        metrics: Registers the client's metrics.
        context: TLS context of the mesh for a provider within it; None for a public provider.
    """

    def __init__(
        self,
        url: str,
        policy: RestPolicy,
        budget: Budget,
        metrics: Metrics,
        context: SSLContext | None = None,
    ) -> None:
        self.url, self.budget = url, budget
        self._policy, self._context = policy, context
        self._blocked_until = 0.0
        self._answers = metrics.counter("source_rest_answers", "REST answers", ("status",))
        self._retries = metrics.counter("source_rest_retries", "REST requests repeated", ("why",))
        metrics.read_gauge(
            "source_rest_weight_used",
            "Request weight used in the current window",
            (),
            lambda: {(): self.budget.used(time.time())},
        )
        metrics.read_gauge(
            "source_rest_weight_limit",
            "Request weight allowed in a window",
            (),
            lambda: {(): self.budget.limit},
        )

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._policy.headers,
            timeout=_TIMEOUT,
            connector=aiohttp.TCPConnector(ssl=self._context or True, limit_per_host=8),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, arguments: Arguments, cost: int) -> Answer:
        """Return the final answer to a GET; wait for refusals, short outages and the budget."""
        target = f"{path}?{urlencode(arguments)}" if arguments else path
        base = self._policy.other_hosts.get(path, self.url)
        backoff = Backoff(base=0.25, cap=30.0)
        failures = 0
        while True:
            await self._admitted(cost)
            answer = await self._try(base, target)
            if answer is not None and UNREACHABLE < answer.status < 500:
                return answer
            if answer is not None:
                failures += 1
                self._failed(base, answer, is_last=failures == ATTEMPTS)
                if failures == ATTEMPTS:
                    return answer
            await backoff.wait()

    async def _admitted(self, cost: int) -> None:
        while True:
            # Refusals use the monotonic clock; budget windows follow the provider's wall clock.
            blocked = self._blocked_until - time.monotonic()
            delay = max(blocked, 0) or self.budget.delay(cost, time.time())
            if not delay:
                return
            await asyncio.sleep(delay)

    async def _try(self, base: str, target: str) -> Answer | None:
        """Send one request; return None if the provider refuses it for some time."""
        began = time.time_ns()
        try:
            async with self._session.get(base + target) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = str(error) or type(error).__name__
            now = time.time_ns()
            return Answer(f"GET {target}", UNREACHABLE, problem.encode(), now, now - began)
        status = response.status
        receive_ns = time.time_ns()
        self._answers.labels(str(status)).inc()
        used = response.headers.get(self._policy.used_header, "")
        if _is_number(used):
            self.budget.reported(int(used), began / 1e9, receive_ns / 1e9)
        refusal = self._policy.refusals.get(status)
        if refusal is not None and refusal.by_host and base != self.url:
            # Return the refusal as an answer: waiting would delay requests to the usual host.
            name = self._policy.name
            _log.warning("%s at %s answers %s: %s", name, base, status, refusal.meaning)
        elif refusal is not None:
            self._refused(status, refusal, response.headers.get("Retry-After", ""))
            return None
        return Answer(f"GET {target}", status, body, receive_ns, receive_ns - began)

    def _failed(self, base: str, answer: Answer, *, is_last: bool) -> None:
        is_unreachable = answer.status == UNREACHABLE
        problem = (
            f"is unreachable: {answer.body.decode(errors='replace')}"
            if is_unreachable
            else f"answers {answer.status} to {answer.context}"
        )
        then = "given up for now" if is_last else "retrying"
        _log.warning("%s at %s %s; %s", self._policy.name, base, problem, then)
        if not is_last:
            self._retries.labels("unreachable" if is_unreachable else str(answer.status)).inc()

    def _refused(self, status: int, refusal: Refusal, retry_after: str) -> None:
        wait = float(retry_after) if _is_number(retry_after) else refusal.seconds
        self._blocked_until = max(self._blocked_until, time.monotonic() + wait)
        self._retries.labels(str(status)).inc()
        _log.warning(
            "%s at %s answers %s: %s; retrying in %.0f s",
            self._policy.name,
            self.url,
            status,
            refusal.meaning,
            wait,
        )


def _is_number(text: str) -> bool:
    """Return whether a header is a number: `isdigit` alone accepts digits that `int` rejects."""
    return text.isascii() and text.isdigit()
