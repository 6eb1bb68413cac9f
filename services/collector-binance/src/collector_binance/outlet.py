"""Records on their way to Kafka: recorded first, never dropped.

An event is sent once Kafka has the frame that it came from, so whatever kills the collector, the
archive holds the input of every event on the topics. Frames go in rounds: while one is on its way
the next one gathers, so rounds grow with the load and a quiet collector waits for one round trip.

While Kafka takes nothing, events wait here in order and reading from the exchange pauses; what has
been read already is all that comes, and of that a quote may be replaced by a newer one.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast

from coinmesh_contracts import topics
from collector_binance.core.encode import Record
from collector_binance.core.frames import FrameRecorder
from meshkit.errors import InvalidArgument, Unavailable
from meshkit.metrics import Metrics
from meshkit.producer import Headers, OnDelivery, Producer

TracedRecord = tuple[str, bytes, bytes, Headers, OnDelivery]
"""A record with its headers, and who is told of its delivery."""
Outgoing = Record | TracedRecord

_log = logging.getLogger(__name__)
_QUOTES: Final = topics.QUOTES.name
_GAPS: Final = topics.GAPS.name


class Outlet:
    """Feeds the producer; `run` belongs into the background tasks.

    Args:
        producer: The way to Kafka.
        recorder: Holds the inputs of the events that are put here.
        most: So many events wait before reading pauses.
        metrics: For how many wait.

    Attributes:
        on_pressure: Told True when reading should pause, False when it may go on.
        is_pressed: Whether reading should pause.
    """

    def __init__(
        self, producer: Producer, recorder: FrameRecorder, most: int, metrics: Metrics
    ) -> None:
        self._producer, self._recorder, self._most = producer, recorder, most
        self._frames: list[Record] = []
        self._events: list[Outgoing] = []
        self._quotes: dict[bytes, Outgoing] = {}
        self._work = asyncio.Event()
        self._round = asyncio.Lock()
        self._leaving = 0
        self._waiting: list[asyncio.Future[None]] = []
        self.on_pressure: Callable[[bool], None] = lambda _: None
        self.is_pressed = False
        self.coalesced = 0
        metrics.read_gauge(
            "collector_waiting_records",
            "Events that wait until Kafka has their frames, or for room in the producer",
            (),
            lambda: {(): len(self)},
        )
        metrics.read_counter(
            "collector_quotes_coalesced",
            "Quotes that a newer one replaced while Kafka had no room",
            (),
            lambda: {(): self.coalesced},
        )

    def __len__(self) -> int:
        """Events that wait."""
        return self._leaving + len(self._events) + len(self._quotes)

    def put(self, events: Iterable[Outgoing], frames: Record | None = None) -> None:
        """Send the events of an input that the recorder has; never blocks.

        Args:
            events: What the input made, in order.
            frames: A batch that the recorder gave back because it was full.
        """
        if frames is not None:
            self._frames.append(frames)
        if self.is_pressed:
            self._wait(events)
        else:
            self._events += events
            if self._leaving + len(self._events) >= self._most:
                self.is_pressed = True
                self.on_pressure(True)
        self._work.set()

    async def delivered(self) -> None:
        """Wait until Kafka has acknowledged every event that was put here before the call."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._work.set()
        await waiting

    async def run(self) -> None:
        """Send what is put here, for ever; raises when the producer has failed."""
        while True:
            await self._work.wait()
            # A round that has begun is finished, also when the service stops.
            await asyncio.shield(self.drain())

    async def drain(self) -> None:
        """Send everything that waits, round by round.

        Raises:
            DataLoss: Kafka refused a record.
        """
        async with self._round:
            while self._work.is_set():
                self._work.clear()
                frames = [*self._frames, *self._recorder.flush()]
                events = [*self._events, *self._quotes.values()]
                self._leaving = len(events)
                self._frames.clear()
                self._events.clear()
                self._quotes.clear()
                waiting, self._waiting = self._waiting, []
                await asyncio.gather(*(self._deliver(record) for record in frames))
                await self._send(events)
                self._leaving = 0
                if waiting:
                    await self._producer.flush(math.inf)
                for each in waiting:
                    if not each.done():
                        each.set_result(None)
            if self.is_pressed:
                self.is_pressed = False
                self.on_pressure(False)

    async def close(self, seconds: float) -> None:
        """As `drain`, within a time.

        Raises:
            Unavailable: Kafka did not take all.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.drain()
        except TimeoutError as error:
            raise Unavailable(
                "NOT_DELIVERED",
                f"Kafka did not take the last {len(self)} events in {seconds:g} s; the next start "
                "reads their trades from the exchange again",
            ) from error

    async def _deliver(self, record: Record) -> None:
        try:
            await self._producer.deliver(*record)
        except InvalidArgument as error:
            _log.error("%s", error.message, extra={"reason": error.reason})

    async def _send(self, events: list[Outgoing]) -> None:
        # Their arguments are an event's parts, whether it is traced or not.
        send = cast(Callable[..., None], self._producer.produce_nowait)
        wait = cast(Callable[..., Awaitable[None]], self._producer.produce)
        for record in events:
            if record[0] == _GAPS:
                # On another partition than its trades: a gap must not be called repaired before
                # Kafka has them.
                await self._producer.flush(math.inf)
            try:
                send(*record)
            except BufferError:
                await wait(*record)
            except InvalidArgument as error:
                _log.error("%s", error.message, extra={"reason": error.reason})

    def _wait(self, events: Iterable[Outgoing]) -> None:
        """Keep events, of a key's quotes the last one."""
        for record in events:
            if record[0] != _QUOTES:
                self._events.append(record)
                continue
            if record[1] in self._quotes:
                self.coalesced += 1
            self._quotes[record[1]] = record
