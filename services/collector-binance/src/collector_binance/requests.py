"""REST requests of the engine: book snapshots and past trades, in order of their due times."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from collector_binance.core.commands import WantSnapshot, WantTrades
from collector_binance.core.engine import Input
from collector_binance.rest import HISTORY_PATH, RestClient
from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

WORKERS: Final = 4
PAST_TRADES: Final = WORKERS - 1
"""So many requests of past trades at a time: their host may be down when the other is not."""
DEPTH_WEIGHTS: Final = {100: 5, 500: 25, 1000: 50, 5000: 250}
TRADES_WEIGHT: Final = 25
# Seconds that a request may wait for the sake of more urgent ones: subscribers see a stale book, a
# gap only delays late trades, a first snapshot of one of many books can wait longest. Due times,
# not priorities, so that none of them waits without end.
_STALE_SECONDS, _TRADES_SECONDS, _FIRST_SECONDS = 0.0, 2.0, 10.0
_BASE_SECONDS: Final = 0.25
_MOST_SECONDS: Final = 30.0

Wanted = WantSnapshot | WantTrades


@dataclass(order=True, slots=True)
class _Entry:
    due: float
    count: int
    wanted: Wanted = field(compare=False)
    superseded: bool = field(default=False, compare=False)


class Requests:
    """A bounded number of workers on one queue; a symbol is in it once for each kind."""

    def __init__(
        self,
        rest: RestClient,
        connection: str,
        snapshot_limit: int,
        on_input: Callable[[Input], None],
        metrics: Metrics,
    ) -> None:
        self._rest, self._connection = rest, connection
        self._snapshot_limit, self._on_input = snapshot_limit, on_input
        self._queue: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._count = 0
        self._snapshots: dict[str, _Entry] = {}
        self._past_trades = 0
        self._waiting_trades: deque[_Entry] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._running = asyncio.Event()
        self._running.set()
        metrics.read_gauge(
            "binance_rest_requests_waiting",
            "Snapshots and past trades that are to be requested",
            (),
            lambda: {(): self._queue.qsize() + len(self._waiting_trades)},
        )

    def want(self, wanted: Wanted) -> None:
        """Queue a request; a repeated attempt is delayed, with growing delays."""
        loop = asyncio.get_running_loop()
        attempt = wanted.attempt if isinstance(wanted, WantSnapshot) else 0
        delay = min(_MOST_SECONDS, _BASE_SECONDS * 2**attempt) if attempt else 0.0
        self._count += 1
        entry = _Entry(loop.time() + delay + _patience(wanted), self._count, wanted)
        if isinstance(wanted, WantSnapshot):
            queued = self._snapshots.get(wanted.symbol)
            if queued is not None:
                if queued.due <= entry.due:
                    return
                queued.superseded = True
            self._snapshots[wanted.symbol] = entry
        if not delay:
            self._queue.put_nowait(entry)
            return
        timer = loop.call_later(delay, self._queue.put_nowait, entry)
        self._timers = {each for each in self._timers if each.when() > loop.time()} | {timer}

    def pause(self, paused: bool) -> None:
        """Stop or resume requests: while Kafka takes nothing, their answers would pile up."""
        if paused:
            self._running.clear()
        else:
            self._running.set()

    async def run(self) -> None:
        """Process requests until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            for timer in self._timers:
                timer.cancel()

    async def _work(self) -> None:
        while True:
            await self._running.wait()
            entry = await self._queue.get()
            if entry.superseded:
                continue
            await self._running.wait()
            wanted = entry.wanted
            if isinstance(wanted, WantTrades):
                if self._past_trades == PAST_TRADES:
                    self._waiting_trades.append(entry)
                    continue
                self._past_trades += 1
            arguments: dict[str, str | int]
            if isinstance(wanted, WantSnapshot):
                path, weight = "/api/v3/depth", DEPTH_WEIGHTS[self._snapshot_limit]
                arguments = {"symbol": wanted.symbol, "limit": self._snapshot_limit}
            else:
                path, weight = HISTORY_PATH, TRADES_WEIGHT
                arguments = {
                    "symbol": wanted.symbol,
                    "fromId": wanted.first_id,
                    "limit": wanted.limit,
                }
            answer = await self._rest.get(path, arguments, weight)
            if isinstance(wanted, WantTrades):
                self._past_trades -= 1
                if self._waiting_trades:
                    self._queue.put_nowait(self._waiting_trades.popleft())
            elif self._snapshots.get(wanted.symbol) is entry:
                del self._snapshots[wanted.symbol]
            if answer.status != 200:
                _log.error("the exchange refuses %s: %s", answer.context, answer.body[:200])
            self._on_input(
                Input(
                    FrameKind.FRAME_KIND_REST,
                    self._connection,
                    answer.receive_ns,
                    answer.body,
                    answer.context,
                    answer.status,
                )
            )


def _patience(wanted: Wanted) -> float:
    if isinstance(wanted, WantTrades):
        return _TRADES_SECONDS
    return _STALE_SECONDS if wanted.urgent else _FIRST_SECONDS
