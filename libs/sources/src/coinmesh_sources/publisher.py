"""Publishes a collector's events: recorded first, never dropped, with backpressure.

An event is sent only after Kafka has acknowledged its frame, so the archive holds the input of
every published event even if the collector is killed. Frames are sent in rounds: the next round
gathers while one is in flight, so rounds grow with the load and an idle collector waits for one
round trip.

While Kafka accepts nothing, events wait here in order and the collector stops reading from its
source. On topics for which the newest value is enough (quotes), a newer event replaces a waiting
one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapState
from coinmesh_sources.inputs import Record
from coinmesh_sources.recorder import FrameRecorder
from meshkit.errors import DataLoss, InvalidArgument, Unavailable
from meshkit.metrics import Metrics
from meshkit.producer import Headers, OnDelivery, Producer

TracedRecord = tuple[str, bytes, bytes, Headers, OnDelivery]
"""A record with its headers and a delivery callback."""
Outgoing = Record | TracedRecord

_log = logging.getLogger(__name__)
_GAPS: Final = topics.GAPS.name


class Publisher:
    """Feeds the producer; `run` is a background task.

    Args:
        producer: The producer.
        recorder: Holds the inputs of the queued events.
        max_pending: Events that may wait before reading pauses.
        metrics: Registers the number of waiting events.
        latest_only: Topics of which only the newest waiting event of a key is kept under
            backpressure.

    Attributes:
        on_backpressure: Called with True if reading must pause, with False if it may resume.
        is_backed_up: Whether reading must pause.
        coalesced: Number of events replaced by a newer one.
    """

    def __init__(
        self,
        producer: Producer,
        recorder: FrameRecorder,
        max_pending: int,
        metrics: Metrics,
        latest_only: frozenset[str] = frozenset(),
    ) -> None:
        self._producer, self._recorder = producer, recorder
        self._max_pending, self._latest_only = max_pending, latest_only
        self._frames: list[Record] = []
        self._events: list[Outgoing] = []
        self._latest: dict[tuple[str, bytes], Outgoing] = {}
        self._work = asyncio.Event()
        self._round = asyncio.Lock()
        self._in_flight = 0
        # Whether Kafka has acknowledged every event that was sent before the next gap record.
        self._is_flushed = True
        self._waiting: list[asyncio.Future[None]] = []
        self.on_backpressure: Callable[[bool], None] = lambda _: None
        self.is_backed_up = False
        self.coalesced = 0
        metrics.read_gauge(
            "source_waiting_records",
            "Events waiting for the acknowledgement of their frames or for room in the producer",
            (),
            lambda: {(): len(self)},
        )
        metrics.read_counter(
            "source_events_coalesced",
            "Events that a newer one replaced while Kafka accepted nothing",
            (),
            lambda: {(): self.coalesced},
        )

    def __len__(self) -> int:
        """Return the number of waiting events."""
        return self._in_flight + len(self._events) + len(self._latest)

    def put(self, events: Iterable[Outgoing], frames: Record | None = None) -> None:
        """Queue the events of an input that the recorder holds; never blocks.

        Args:
            events: The input's events, in order.
            frames: A batch that the recorder returned because it was full.
        """
        if frames is not None:
            self._frames.append(frames)
        if self.is_backed_up:
            self._wait(events)
        else:
            self._events += events
            if self._in_flight + len(self._events) >= self._max_pending:
                self.is_backed_up = True
                self.on_backpressure(True)
        self._work.set()

    async def delivered(self) -> None:
        """Wait until Kafka has acknowledged every event that was queued before the call."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._work.set()
        await waiting

    async def run(self) -> None:
        """Send queued events until cancelled; raise if the producer has failed."""
        while True:
            await self._work.wait()
            # A round in progress is completed even if the service stops.
            await asyncio.shield(self.drain())

    async def drain(self) -> None:
        """Send all waiting events, round by round.

        Raises:
            DataLoss: Kafka rejected a record, or frames are too large for it.
        """
        async with self._round:
            while self._work.is_set():
                self._work.clear()
                frames = [*self._frames, *self._recorder.flush()]
                events = [*self._events, *self._latest.values()]
                self._in_flight = len(events)
                self._frames.clear()
                self._events.clear()
                self._latest.clear()
                waiting, self._waiting = self._waiting, []
                await asyncio.gather(*(self._deliver(record) for record in frames))
                await self._send(events)
                self._in_flight = 0
                if waiting:
                    await self._producer.flush(math.inf)
                for each in waiting:
                    if not each.done():
                        each.set_result(None)
            if self.is_backed_up:
                self.is_backed_up = False
                self.on_backpressure(False)

    async def close(self, seconds: float) -> None:
        """Drain within a time limit.

        Raises:
            Unavailable: Kafka did not acknowledge all events.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.drain()
        except TimeoutError as error:
            raise Unavailable(
                "NOT_DELIVERED",
                f"Kafka did not acknowledge the last {len(self)} events in {seconds:g} s; the next "
                "start requests them from the source again",
            ) from error

    async def _deliver(self, record: Record) -> None:
        try:
            await self._producer.deliver(*record)
        except InvalidArgument as error:
            # Without these frames the session's archive would be unreadable.
            message = f"frames of {record[1].decode()} can't be recorded: {error.message}"
            raise DataLoss("FRAMES_NOT_RECORDED", message) from error

    async def _send(self, events: list[Outgoing]) -> None:
        # `Outgoing` has two shapes, so the argument types are not checked.
        send = cast(Callable[..., None], self._producer.produce_nowait)
        wait = cast(Callable[..., Awaitable[None]], self._producer.produce)
        for record in events:
            if record[0] != _GAPS:
                self._is_flushed = False
            elif not self._is_flushed and not _is_open(record[2]):
                # Gaps and events are on different partitions: a gap must not become repaired before
                # Kafka has acknowledged its events.
                await self._producer.flush(math.inf)
                self._is_flushed = True
            try:
                send(*record)
            except BufferError:
                await wait(*record)
            except InvalidArgument as error:
                _log.error("%s", error.message, extra={"reason": error.reason})

    def _wait(self, events: Iterable[Outgoing]) -> None:
        for record in events:
            if record[0] not in self._latest_only:
                self._events.append(record)
                continue
            key = record[0], record[1]
            self.coalesced += key in self._latest
            self._latest[key] = record


def _is_open(value: bytes) -> bool:
    """Return whether a gap record makes no statement about the events before it."""
    gap = Gap.FromString(framing.split(value)[1])
    return gap.state == GapState.GAP_STATE_OPEN
