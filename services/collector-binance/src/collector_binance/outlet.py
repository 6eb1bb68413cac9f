"""Records on their way to Kafka: never dropped, save quotes that a newer one replaces.

While Kafka's queue has no room, records wait here in order and reading from the exchange pauses, so
what waits is bounded by what had been read already.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from coinmesh_contracts import topics
from collector_binance.core.encode import Record
from meshkit.errors import InvalidArgument, MeshError
from meshkit.metrics import Metrics
from meshkit.producer import Producer

_log = logging.getLogger(__name__)
_QUOTES = topics.QUOTES.name


class Outlet:
    """Feeds the producer; `run` belongs into the background tasks.

    Attributes:
        on_pressure: Told True when reading should pause, False when it may go on.
    """

    def __init__(self, producer: Producer, metrics: Metrics) -> None:
        self._producer = producer
        self._waiting: deque[Record] = deque()
        self._quotes: dict[bytes, Record] = {}
        self._work = asyncio.Event()
        self._draining = asyncio.Lock()
        self._failure: MeshError | None = None
        self.on_pressure: Callable[[bool], None] = lambda _: None
        self.coalesced = 0
        metrics.read_gauge(
            "collector_waiting_records",
            "Records that wait for room in the producer",
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
        """Records that wait."""
        return len(self._waiting) + len(self._quotes)

    def put(self, records: Iterable[Record]) -> None:
        """Send records in order; never blocks."""
        send = self._producer.produce_nowait
        for record in records:
            if self._waiting or self._quotes:
                self._wait(record)
                continue
            try:
                send(*record)
            except BufferError:
                self._wait(record)
                self.on_pressure(True)
                self._work.set()
            except InvalidArgument as error:
                _log.error("%s", error.message, extra={"reason": error.reason})
            except MeshError as error:
                self._failure = error
                self._work.set()
                return

    async def run(self) -> None:
        """Drain what waits, for ever; raises when the producer has failed."""
        while True:
            await self._work.wait()
            self._work.clear()
            await self.drain()

    async def drain(self) -> None:
        """Send everything that waits."""
        async with self._draining:
            # A record stays at its place until it is sent: what comes meanwhile queues behind it.
            while self._waiting and self._failure is None:
                await self._producer.produce(*self._waiting[0])
                self._waiting.popleft()
            while self._quotes and self._failure is None:
                key, record = next(iter(self._quotes.items()))
                await self._producer.produce(*record)
                if self._quotes[key] is record:
                    del self._quotes[key]
        if self._failure is not None:
            raise self._failure
        if self._waiting or self._quotes:
            self._work.set()  # came while the last ones were sent
        else:
            self.on_pressure(False)

    def _wait(self, record: Record) -> None:
        if record[0] != _QUOTES:
            self._waiting.append(record)
            return
        if record[1] in self._quotes:
            self.coalesced += 1
        self._quotes[record[1]] = record
