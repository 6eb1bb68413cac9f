"""A queue of REST requests in order of their due times, with a bounded number of workers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input
from coinmesh_sources.recorder import MAX_INPUT_BYTES
from coinmesh_sources.rest import UNREACHABLE, Arguments, RestClient
from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

WORKERS: Final = 4
LANE_WORKERS: Final = WORKERS - 1
"""The most workers that one lane may use, because the host of one lane may be down while that of
another is not."""
_BASE_SECONDS: Final = 0.25
_MAX_SECONDS: Final = 30.0
# Far beyond the longest delay; a greater power of two overflows.
_MAX_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One request of an engine.

    Attributes:
        path: The path.
        arguments: The query's parameters.
        cost: Cost charged to the budget.
        patience: Seconds that it may wait while more urgent requests are sent. The queue is ordered
            by due time, not by priority, so that no request waits indefinitely.
        attempt: Number of earlier attempts; each doubles the delay before this one.
        replaces: Of requests with the same name only the one that is due first is sent.
        lane: Requests of one lane leave at least one worker to the others; empty for no lane.
    """

    path: str
    arguments: Arguments
    cost: int
    patience: float
    attempt: int = 0
    replaces: str = ""
    lane: str = ""


@dataclass(order=True, slots=True)
class _Entry:
    due: float
    count: int
    request: Request = field(compare=False)
    superseded: bool = field(default=False, compare=False)


class RequestQueue:
    """Sends requests and passes their answers to the engine as REST inputs.

    Args:
        rest: The client.
        connection: The connection under which answers are recorded.
        on_input: Receives each answer.
        metrics: Registers the number of waiting requests.
    """

    def __init__(
        self,
        rest: RestClient,
        connection: str,
        on_input: Callable[[Input], None],
        metrics: Metrics,
    ) -> None:
        self._rest, self._connection, self._on_input = rest, connection, on_input
        self._queue: asyncio.PriorityQueue[_Entry] = asyncio.PriorityQueue()
        self._count = 0
        self._named: dict[str, _Entry] = {}
        self._busy: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Entry]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._running = asyncio.Event()
        self._running.set()
        metrics.read_gauge(
            "source_rest_requests_waiting",
            "REST requests that wait to be sent",
            (),
            lambda: {(): self._queue.qsize() + sum(len(each) for each in self._waiting.values())},
        )

    def put(self, request: Request) -> None:
        """Queue a request; delay repeated attempts with growing delays."""
        loop = asyncio.get_running_loop()
        doublings = min(request.attempt, _MAX_DOUBLINGS)
        delay = min(_MAX_SECONDS, _BASE_SECONDS * 2**doublings) if doublings else 0.0
        self._count += 1
        entry = _Entry(loop.time() + delay + request.patience, self._count, request)
        if request.replaces:
            queued = self._named.get(request.replaces)
            if queued is not None:
                if queued.due <= entry.due:
                    return
                queued.superseded = True
            self._named[request.replaces] = entry
        if not delay:
            self._queue.put_nowait(entry)
            return
        timer = loop.call_later(delay, self._queue.put_nowait, entry)
        self._timers = {each for each in self._timers if each.when() > loop.time()} | {timer}

    def pause(self, paused: bool) -> None:
        """Stop or resume requests: their answers would pile up while Kafka accepts nothing."""
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
            request = entry.request
            if not self._enter(entry):
                continue
            answer = await self._rest.get(request.path, request.arguments, request.cost)
            self._leave(entry)
            if len(answer.body) > MAX_INPUT_BYTES:
                size = f"the answer has {len(answer.body)} bytes".encode()
                answer = replace(answer, status=UNREACHABLE, body=size)
            if answer.status != 200:
                _log.error(
                    "%s failed with status %d: %s",
                    answer.context,
                    answer.status,
                    answer.body[:200].decode("utf-8", "replace"),
                )
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

    def _enter(self, entry: _Entry) -> bool:
        lane = entry.request.lane
        if lane and self._busy[lane] == LANE_WORKERS:
            self._waiting.setdefault(lane, deque()).append(entry)
            return False
        self._busy[lane] += 1
        return True

    def _leave(self, entry: _Entry) -> None:
        lane, name = entry.request.lane, entry.request.replaces
        self._busy[lane] -= 1
        if waiting := self._waiting.get(lane):
            self._queue.put_nowait(waiting.popleft())
        if self._named.get(name) is entry:
            del self._named[name]
