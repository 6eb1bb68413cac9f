"""Full-jitter capped exponential backoff.

The n-th delay is uniform in [0, min(cap, base · 2^n)], the "full jitter" that spreads clients best:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator


class RetriesExhaustedError(Exception):
    """The attempt limit is reached."""


class Backoff(Iterator[float]):
    """An iterator over delays in seconds.

    If `healthy` was called at least `healthy_after` seconds before the next failure, delays start
    from the first again: a connection that always fails at once keeps backing off, and one that
    worked for a while starts with short delays.
    """

    def __init__(
        self,
        base: float = 0.5,
        cap: float = 30.0,
        *,
        limit: int | None = None,
        healthy_after: float = 60.0,
        on_retry: Callable[[int, float], None] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a sequence of delays.

        `limit` is the maximum number of consecutive delays (None: no limit); `on_retry(attempt,
        delay)` is a hook for metrics; `uniform`, `sleep` and `clock` are for tests.
        """
        if not 0 < base <= cap:
            raise ValueError(f"base {base} must be above 0 and at most cap {cap}")
        self._base, self._cap, self._limit = base, cap, limit
        self._healthy_after, self._on_retry = healthy_after, on_retry
        self._uniform, self._sleep, self._clock = uniform, sleep, clock
        self._healthy_since: float | None = None
        self.attempt = 0

    def __next__(self) -> float:
        """Return the next delay; raise StopIteration at the limit."""
        if self._healthy_since is not None:
            if self._clock() - self._healthy_since >= self._healthy_after:
                self.attempt = 0
            self._healthy_since = None
        if self._limit is not None and self.attempt >= self._limit:
            raise StopIteration
        # min() on the exponent keeps 2**n from growing without bound.
        delay = self._uniform(0.0, min(self._cap, self._base * 2 ** min(self.attempt, 60)))
        self.attempt += 1
        if self._on_retry is not None:
            self._on_retry(self.attempt, delay)
        return delay

    def healthy(self) -> None:
        """Report that the operation works now; only the first call after a failure counts."""
        if self._healthy_since is None:
            self._healthy_since = self._clock()

    def reset(self) -> None:
        """Start from the first delay again."""
        self.attempt = 0
        self._healthy_since = None

    async def wait(self) -> float:
        """Sleep for the next delay and return it; raise RetriesExhaustedError past the limit."""
        delay = next(self, None)
        if delay is None:
            raise RetriesExhaustedError(f"gave up after {self.attempt} retries")
        await self._sleep(delay)
        return delay
