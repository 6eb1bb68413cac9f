"""Backfills: past trades that the topic lacks, read over REST through the same engine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import Final

import msgspec
from google.longrunning.operations_pb2 import Operation
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from collector_binance import checkpoint
from collector_binance.collector import Collector
from collector_binance.core import session
from collector_binance.core.engine import Input
from collector_binance.core.gaps import Hole, Span, split
from collector_binance.core.instruments import VENUE
from collector_binance.core.market import Market
from meshkit.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable

_log = logging.getLogger(__name__)

MOST_IDS: Final = 1_000_000
KEPT: Final = 100
PREFIX: Final = f"collectors/{VENUE}/backfills/"


@dataclass(slots=True)
class Running:
    """One backfill."""

    span: Span
    holes: list[Hole] = field(default_factory=list)
    scanned: bool = False
    error: MeshError | None = None

    @property
    def published(self) -> int:
        """Trades published so far."""
        return sum(hole.repaired for hole in self.holes)

    @property
    def next_id(self) -> int:
        """The first id that is still missing; the one after the last when none is."""
        missing = [first for hole in self.holes for first, _ in hole.missing[:1]]
        if self.scanned:
            return min(missing, default=self.span[1] + 1)
        return self.span[0]

    @property
    def done(self) -> bool:
        """Whether nothing is left to read."""
        return self.error is not None or (
            self.scanned and not any(hole.missing for hole in self.holes)
        )


class Backfills:
    """The backfills of this process; the last 100 can be asked for."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # One at a time: the gaps of one are open before the next looks for missing trades.
        self._turn = asyncio.Lock()

    def start(self, symbol: str, first: int, last: int) -> Operation:
        """Begin one.

        Raises:
            InvalidArgument: The ids are no range, or too many.
            FailedPrecondition: The instrument isn't collected, or no trade of it has come yet.
        """
        if not 0 < first <= last:
            raise InvalidArgument(
                "TRADE_RANGE_INVALID",
                f"ids.first {first} must be positive and at most ids.last {last}",
                field="ids.first",
            )
        if last - first >= MOST_IDS:
            raise InvalidArgument(
                "TRADE_RANGE_TOO_LARGE",
                f"{last - first + 1} ids are more than {MOST_IDS}; ask for parts",
                field="ids.last",
            )
        engine = self._collector.engine
        market = engine.markets.get(symbol) if engine else None
        newest = market.trades.last_id if market else None
        if market is None or newest is None:
            raise FailedPrecondition(
                "INSTRUMENT_NOT_LIVE",
                f"no trade of {symbol} has come yet; subscribe it first",
                symbol=symbol,
            )
        if first > newest:
            raise InvalidArgument(
                "TRADE_RANGE_FUTURE",
                f"the newest trade has id {newest}",
                field="ids.first",
            )
        name = secrets.token_hex(8)
        running = Running((first, min(last, newest)))
        while len(self._running) >= KEPT:
            del self._running[next(iter(self._running))]
        self._running[name] = running
        task = asyncio.create_task(self._work(market, running), name=f"backfill {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _operation(name, running)

    def get(self, name: str) -> Operation:
        """The state of one.

        Raises:
            NotFound: This process has none of that name.
        """
        running = self._running.get(name.removeprefix(PREFIX))
        if running is None:
            raise NotFound(
                "BACKFILL_NOT_FOUND",
                f"there is no backfill {name!r}; those of an ended process are forgotten, and what "
                "they had not read goes on as open gaps",
                backfill=name,
            )
        return _operation(name.removeprefix(PREFIX), running)

    async def _work(self, market: Market, running: Running) -> None:
        try:
            async with self._turn:
                await self._start_repair(market, running)
        except MeshError as error:
            _log.warning("a backfill of %s failed: %s", market.symbol, error.message)
            running.error = error
        except Exception:
            _log.exception("a backfill of %s failed", market.symbol)
            running.error = Unavailable("BACKFILL_FAILED", "the log tells why")

    async def _start_repair(self, market: Market, running: Running) -> None:
        """Open gaps for the trades that are neither on the topic nor under repair."""
        # Gaps that are repaired during the scan, and trades on their way to Kafka, may be missing
        # from what the scan reads: they would be published twice.
        under_repair = [(hole.first, hole.last) for hole in market.trades.holes]
        await self._collector.delivered()
        present: set[int] = set()
        scan = checkpoint.published_ids(
            self._collector.settings, market.encoder.instrument, running.span
        )
        async for ids in scan:
            present.update(ids)
        spans = checkpoint.missing_spans(running.span, present)
        under_repair += [(hole.first, hole.last) for hole in market.trades.holes]
        for span in under_repair:
            _, spans = split(spans, span)
        if spans:
            self._begin(market, spans)
            running.holes = [
                hole for hole in market.trades.holes if (hole.first, hole.last) in spans
            ]
        running.scanned = True

    def _begin(self, market: Market, spans: list[Span]) -> None:
        payload = msgspec.json.encode(session.Backfill(market.symbol, spans))
        self._collector.give(
            Input(
                FrameKind.FRAME_KIND_SUBSCRIPTION,
                self._collector.rest_connection,
                time.time_ns(),
                payload,
                session.BACKFILL,
            )
        )


def _operation(name: str, running: Running) -> Operation:
    operation = Operation(name=PREFIX + name, done=running.done)
    operation.metadata.Pack(
        pb.BackfillMetadata(next_id=running.next_id, published=running.published)
    )
    if running.error is not None:
        code: int = StatusCode.UNAVAILABLE.value[0]
        operation.error.CopyFrom(Status(code=code, message=running.error.message))
    elif running.done:
        operation.response.Pack(pb.BackfillResponse(published=running.published))
    return operation
