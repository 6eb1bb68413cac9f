"""What the engine asks of REST: book snapshots and past trades, the most urgent first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from collector_binance.core.commands import WantSnapshot, WantTrades
from collector_binance.core.engine import Input
from collector_binance.rest import RestClient
from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

WORKERS: Final = 4
DEPTH_WEIGHTS: Final = {100: 5, 500: 25, 1000: 50, 5000: 250}
TRADES_WEIGHT: Final = 25
# A stale book is seen by readers; a first snapshot of one of many books can wait for trades.
_STALE, _TRADES, _FIRST = range(3)
_BASE_SECONDS: Final = 0.25
_MOST_SECONDS: Final = 30.0

Wanted = WantSnapshot | WantTrades


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
        self._queue: asyncio.PriorityQueue[tuple[int, int, Wanted]] = asyncio.PriorityQueue()
        self._count = 0
        self._snapshots: set[str] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        metrics.read_gauge(
            "binance_rest_requests_waiting",
            "Snapshots and past trades that are to be asked for",
            (),
            lambda: {(): self._queue.qsize()},
        )

    def want(self, wanted: Wanted) -> None:
        """Ask for something; a repeated attempt is delayed, with growing delays."""
        priority = _TRADES
        if isinstance(wanted, WantSnapshot):
            if wanted.symbol in self._snapshots:
                return
            self._snapshots.add(wanted.symbol)
            priority = _STALE if wanted.urgent else _FIRST
        delay = min(_MOST_SECONDS, _BASE_SECONDS * 2**wanted.attempt) if wanted.attempt else 0.0
        self._count += 1
        entry = (priority, self._count, wanted)
        if not delay:
            self._queue.put_nowait(entry)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(delay, self._queue.put_nowait, entry)
        self._timers = {each for each in self._timers if each.when() > loop.time()} | {timer}

    async def run(self) -> None:
        """Work for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            for timer in self._timers:
                timer.cancel()

    async def _work(self) -> None:
        while True:
            _, _, wanted = await self._queue.get()
            arguments: dict[str, str | int]
            if isinstance(wanted, WantSnapshot):
                path, weight = "/api/v3/depth", DEPTH_WEIGHTS[self._snapshot_limit]
                arguments = {"symbol": wanted.symbol, "limit": self._snapshot_limit}
            else:
                path, weight = "/api/v3/historicalTrades", TRADES_WEIGHT
                arguments = {
                    "symbol": wanted.symbol,
                    "fromId": wanted.first_id,
                    "limit": wanted.limit,
                }
            answer = await self._rest.get(path, arguments, weight)
            self._snapshots.discard(wanted.symbol if isinstance(wanted, WantSnapshot) else "")
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
