"""What a replica needs to know of each instrument before its live events tell it.

From Redis the latest trade and quote, from Cassandra the last day's 1 m bars and, where Redis has
lost it, the last trade, though there are live ones: those may be late. Later instruments are
filled in as they appear. A replica waits for a slow Cassandra only for a while: the rest is then
read in the background, and the instruments' figures of the day are left out until it is.
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
"""How long a replica isn't ready because reads fail or aren't answered."""
_MINUTES: Final = 1440
_GC_ALLOCATIONS: Final = 20_000  # a chart of 500 bars is a few thousand


class Bootstrap(Resource):
    """Fills the view.

    Args:
        view: What is filled.
        history: Cassandra.
        cache: Redis.
        needed: Waited for at the start: the topics read, Cassandra connected.
        retry_seconds: The first delay before a failed read is tried again; grows tenfold.
        fill_seconds: How long reads may take until `done` is set without them.
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
        """Add the count of instruments whose history isn't known."""
        metrics.read_gauge(
            "unloaded_instruments",
            "Instruments whose stored history could not be read yet",
            (),
            lambda: {(): len(self._view.unloaded)},
        )

    async def run(self) -> None:
        """Fills the view, then what appears later; `done` is set after the first time."""
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
                # What is here now stays: the collector needn't look through it time and again.
                gc.collect()
                gc.freeze()
                gc.set_threshold(_GC_ALLOCATIONS, 20, 20)
            self.done.set()
            await asyncio.sleep(_CHECK_SECONDS)

    async def is_ready(self) -> bool:
        """Whether the view was filled."""
        return self.done.is_set()

    async def _fill(self, names: list[str]) -> None:
        if not names:
            return
        self._filled.update(names)
        late: list[str] = []
        await latest.load(self._cache, self._view, names)
        turns = asyncio.Semaphore(_AT_ONCE)
        # The day ends with the newest bar of all, so that one is looked for first.
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
            task.add_done_callback(self._later.discard)

    async def _load(self, name: str, turns: asyncio.Semaphore) -> None:
        """Go on in the background with what couldn't be read in time."""
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
