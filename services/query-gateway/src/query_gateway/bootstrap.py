"""Warm up the live view from Redis and Cassandra before the replica reports ready.

Redis provides the latest trade and quote; Cassandra the last day's 1 m bars and, if Redis has lost
it, the last trade, even if there are live trades: those may be late. Instruments that appear later
are loaded then. A replica waits for a slow Cassandra only for a limited time: the remaining history
is then read in the background, and until then the day statistics of its instruments are omitted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from meshkit.backoff import Backoff
from meshkit.errors import Unavailable
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from query_gateway import latest
from query_gateway.cache import Cache
from query_gateway.history import History
from query_gateway.intervals import DAY_MS
from query_gateway.live_view import LiveView
from query_gateway.requests import MAX_MS

_log = logging.getLogger(__name__)
_CHECK_SECONDS: Final = 1.0
_AT_ONCE: Final = 8
FILL_SECONDS: Final = 30.0
"""Maximum time for which failing or unanswered reads keep a replica from being ready."""
_MINUTES: Final = 1440
_GC_ALLOCATIONS: Final = 20_000  # a chart of 500 bars is a few thousand


class Bootstrap(Resource):
    """Loads the initial state into the view.

    Args:
        view: The view to fill.
        history: Cassandra.
        cache: Redis.
        needed: Events awaited at the start: topics read, Cassandra connected.
        retry_seconds: The first delay before a failed read is retried; grows tenfold.
        fill_seconds: Time for reads after which `done` is set without them.
    """

    def __init__(
        self,
        view: LiveView,
        history: History,
        cache: Cache,
        needed: Iterable[asyncio.Event],
        *,
        retry_seconds: float = 0.5,
        fill_seconds: float = FILL_SECONDS,
    ) -> None:
        self._retry_seconds, self._fill_seconds = retry_seconds, fill_seconds
        self._later: set[asyncio.Task[None]] = set()
        self._view, self._history, self._cache = view, history, cache
        self._needed = tuple(needed)
        self._filled: set[str] = set()
        self.done = asyncio.Event()

    def register(self, metrics: Metrics) -> None:
        """Add the count of instruments whose history isn't loaded."""
        metrics.read_gauge(
            "unloaded_instruments",
            "Instruments whose stored history could not be read yet",
            (),
            lambda: {(): len(self._view.unloaded)},
        )

    async def run(self) -> None:
        """Fill the view, then load new instruments; set `done` after the first pass."""
        for event in self._needed:
            await event.wait()
        try:
            await self._run()
        finally:
            for task in self._later:
                task.cancel()

    async def _run(self) -> None:
        while True:
            missing = [name for name in self._view.instruments if name not in self._filled]
            await self._fill(missing)
            if not self.done.is_set():
                _log.info("the view is filled", extra={"instruments": len(missing)})
                # The warmed-up view is long-lived; freeze it so that garbage collection skips it.
                gc.collect()
                gc.freeze()
                gc.set_threshold(_GC_ALLOCATIONS, 20, 20)
            self.done.set()
            await asyncio.sleep(_CHECK_SECONDS)
            for task in [task for task in self._later if task.done()]:
                self._later.discard(task)
                task.result()

    async def is_ready(self) -> bool:
        """Return whether the view was filled."""
        return self.done.is_set()

    async def _fill(self, names: list[str]) -> None:
        if not names:
            return
        self._filled.update(names)
        late: list[str] = []
        await latest.load(self._cache, self._view, names)
        turns = asyncio.Semaphore(_AT_ONCE)
        # The day ends with the newest bar of all instruments, so those bars are read first.
        steps = self._steps
        for step in steps:
            if not names:
                break
            tasks = {asyncio.create_task(self._retried(step, name, turns)): name for name in names}
            try:
                done, pending = await asyncio.wait(tasks, timeout=self._fill_seconds / len(steps))
            finally:
                for task in tasks:
                    task.cancel()
            for task in done:
                task.result()
            late += [tasks[task] for task in pending]
            names = [tasks[task] for task in done]
        if late:
            _log.warning("the history of %d instruments can't be read; serving without", len(late))
        self._view.unloaded.update(late)
        for name in late:
            task = asyncio.create_task(self._load(name, turns), name=f"history of {name}")
            self._later.add(task)

    async def _load(self, name: str, turns: asyncio.Semaphore) -> None:
        """Read the history of an instrument in the background after a timeout."""
        for step in self._steps:
            await self._retried(step, name, turns)
        self._view.unloaded.discard(name)
        _log.info("the history of %s is known now", name)

    @property
    def _steps(self) -> tuple[Callable[[str], Awaitable[None]], ...]:
        return self._newest_bar, self._day, self._last_trade

    async def _retried(
        self, step: Callable[[str], Awaitable[None]], name: str, turns: asyncio.Semaphore
    ) -> None:
        backoff = Backoff(base=self._retry_seconds, cap=10 * self._retry_seconds)
        while True:
            try:
                async with turns:
                    return await step(name)
            except Unavailable as error:
                _log.warning("the view of %s isn't filled yet: %s", name, error.message)
            await backoff.wait()

    async def _newest_bar(self, name: str) -> None:
        found = await self._history.bars(name, "1m", 0, MAX_MS, newest_first=True, limit=1)
        self._view.put_history(name, "1m", found.rows)

    async def _day(self, name: str) -> None:
        end = self._view.newest_ms(name)
        low = self._view.day.clock_ms - DAY_MS + 1
        if end and end >= low:
            found = await self._history.bars(
                name, "1m", low, end + 1, newest_first=True, limit=_MINUTES
            )
            self._view.put_history(name, "1m", found.rows)

    async def _last_trade(self, name: str) -> None:
        end = self._view.newest_ms(name)
        if end and not self._view.trade_ring(name).is_seeded:
            high = end + DAY_MS
            rows, _, _ = await self._history.trades(
                name, (end - DAY_MS, 0), (high, 0), newest_first=True, limit=1
            )
            for row in rows:
                self._view.put_trade(name, row)
