"""Backfills on a real engine; the topic of trades is a set of ids that the test holds."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from engine_bench import REST, TRADES, Bench
from google.longrunning.operations_pb2 import Operation

from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from collector_binance import checkpoint
from collector_binance.backfills import KEPT, MOST_IDS, Backfills
from collector_binance.core.commands import WantTrades
from collector_binance.core.engine import Input
from collector_binance.testing import SYMBOL, past_trade, trade
from meshkit.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable

NEWEST = 100


class Collector:
    """A collector whose topic holds the trades of `topic`.

    The first scans wait for an event of `gates` each, all others for `scanning`.
    """

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.open()
        self.bench.send(trade(NEWEST))
        self.engine: Any = self.bench.engine
        self.settings = None
        self.rest_connection = REST
        self.topic = {NEWEST}
        self.scanning = asyncio.Event()
        self.scanning.set()
        self.gates: list[asyncio.Event] = []
        self.scan_error: Exception | None = None
        self.scans: list[tuple[str, tuple[int, int]]] = []

    def give(self, engine_input: Input) -> None:
        # A gap's id contains the time.
        self.bench.now += 1_000_000
        self.bench.give(
            "SUBSCRIPTION",
            engine_input.connection,
            engine_input.payload,
            engine_input.context,
        )

    async def delivered(self) -> None:
        self.topic.update(self.published())

    async def published_ids(
        self, _: object, instrument: str, span: tuple[int, int]
    ) -> AsyncGenerator[list[int], None]:
        self.scans.append((instrument, span))
        present = sorted(number for number in self.topic if span[0] <= number <= span[1])
        await (self.gates.pop(0) if self.gates else self.scanning).wait()
        if self.scan_error is not None:
            raise self.scan_error
        for number in present:
            yield [number]

    def answer(self, first: int, *numbers: int) -> None:
        """The exchange answers a request of past trades."""
        body = json.dumps([past_trade(number) for number in numbers]).encode()
        target = f"GET /api/v3/historicalTrades?symbol={SYMBOL}&fromId={first}&limit=9"
        self.bench.give("REST", REST, body, target)

    def published(self) -> list[int]:
        return sorted(event.trade_id for event in self.bench.of(TRADES))


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()
    monkeypatch.setattr(checkpoint, "published_ids", collector.published_ids)
    return collector


@pytest.fixture
async def runs(collector: Collector) -> Backfills:
    return Backfills(collector)  # type: ignore[arg-type]


async def scanned(runs: Backfills) -> None:
    """Wait until every backfill has scanned the topic."""
    await asyncio.gather(*runs._tasks)


def progress(operation: Operation) -> tuple[int, int]:
    """Next id and trades published."""
    metadata = pb.BackfillMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.next_id, metadata.published


@pytest.mark.parametrize(
    ("symbol", "first", "last", "kind", "reason"),
    [
        (SYMBOL, 0, 5, InvalidArgument, "TRADE_RANGE_INVALID"),
        (SYMBOL, 6, 5, InvalidArgument, "TRADE_RANGE_INVALID"),
        (SYMBOL, 1, MOST_IDS + 1, InvalidArgument, "TRADE_RANGE_TOO_LARGE"),
        (SYMBOL, NEWEST + 1, NEWEST + 2, InvalidArgument, "TRADE_RANGE_FUTURE"),
        ("ETHUSDT", 1, 5, FailedPrecondition, "INSTRUMENT_NOT_LIVE"),
    ],
)
async def test_invalid_range_is_rejected(
    runs: Backfills, symbol: str, first: int, last: int, kind: type[MeshError], reason: str
) -> None:
    with pytest.raises(kind) as exc_info:
        runs.start(symbol, first, last)
    assert exc_info.value.reason == reason
    assert not runs._tasks


async def test_start_without_an_engine_is_rejected(collector: Collector, runs: Backfills) -> None:
    collector.engine = None
    with pytest.raises(FailedPrecondition):
        runs.start(SYMBOL, 1, 5)


async def test_only_missing_trades_are_requested(collector: Collector, runs: Backfills) -> None:
    collector.topic |= {12, 13, 15}
    operation = runs.start(SYMBOL, 11, 15)
    assert (operation.done, progress(operation)) == (False, (11, 0))
    await scanned(runs)
    assert collector.scans == [("binance.BTC-USDT", (11, 15))]
    assert collector.bench.commands() == [WantTrades(SYMBOL, 11, 1)]
    collector.answer(11, 11)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (False, (14, 1))
    collector.answer(14, 14)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (True, (16, 2))
    response = pb.BackfillResponse()
    assert operation.response.Unpack(response)
    assert response.published == 2
    assert collector.published() == [11, 14, NEWEST]


async def test_complete_topic_ends_without_a_request(collector: Collector, runs: Backfills) -> None:
    collector.topic |= {11, 12}
    operation = runs.start(SYMBOL, 11, 12)
    await scanned(runs)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (True, (13, 0))
    assert collector.bench.commands() == []


async def test_range_ends_at_the_newest_trade(collector: Collector, runs: Backfills) -> None:
    runs.start(SYMBOL, NEWEST - 1, NEWEST + 50)
    await scanned(runs)
    assert collector.scans == [("binance.BTC-USDT", (NEWEST - 1, NEWEST))]
    assert collector.bench.commands() == [WantTrades(SYMBOL, NEWEST - 1, 1)]


async def test_open_gap_is_not_requested_twice(collector: Collector, runs: Backfills) -> None:
    collector.bench.send(trade(NEWEST + 4))
    assert collector.bench.commands() == [WantTrades(SYMBOL, NEWEST + 1, 3)]
    runs.start(SYMBOL, NEWEST - 2, NEWEST + 4)
    await scanned(runs)
    market = collector.engine.markets[SYMBOL]
    assert [(hole.first, hole.last) for hole in market.trades.holes] == [
        (NEWEST - 2, NEWEST - 1),
        (NEWEST + 1, NEWEST + 3),
    ]


async def test_trades_on_their_way_to_kafka_are_not_requested(
    collector: Collector, runs: Backfills
) -> None:
    for number in range(NEWEST + 1, NEWEST + 4):
        collector.bench.send(trade(number))
    runs.start(SYMBOL, NEWEST, NEWEST + 3)
    await scanned(runs)
    assert collector.bench.commands() == []


async def test_gap_repaired_during_the_scan_is_not_requested(
    collector: Collector, runs: Backfills
) -> None:
    collector.bench.send(trade(NEWEST + 4))
    collector.bench.commands()
    collector.scanning.clear()
    runs.start(SYMBOL, NEWEST, NEWEST + 4)
    while not collector.scans:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    collector.answer(NEWEST + 1, NEWEST + 1, NEWEST + 2, NEWEST + 3)
    assert collector.engine.markets[SYMBOL].trades.holes == []
    collector.scanning.set()
    await scanned(runs)
    assert collector.bench.commands() == []


async def test_overlapping_backfills_publish_each_trade_once(
    collector: Collector, runs: Backfills
) -> None:
    first_scan, second_scan = collector.gates[:] = asyncio.Event(), asyncio.Event()
    for span in ((11, 13), (12, 14)):
        runs.start(SYMBOL, *span)
    while not collector.scans:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    first_scan.set()
    while not collector.engine.markets[SYMBOL].trades.holes:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    while collector.gates:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    collector.answer(11, 11, 12, 13)
    second_scan.set()
    await scanned(runs)
    collector.answer(12, 12, 13, 14)
    collector.answer(14, 14)
    assert collector.published() == [11, 12, 13, 14, NEWEST]


async def test_wide_open_gap_is_excluded_at_once(collector: Collector, runs: Backfills) -> None:
    """Its ids are not enumerated, which would stop the event loop for hours."""
    newest = 10**12
    collector.bench.send(trade(newest))
    runs.start(SYMBOL, NEWEST, NEWEST + 5)
    await scanned(runs)
    (gap,) = collector.engine.markets[SYMBOL].trades.holes
    assert (gap.first, gap.last) == (NEWEST + 1, newest - 1)


async def test_incomplete_history_ends_the_backfill(collector: Collector, runs: Backfills) -> None:
    """Trades that the exchange no longer has count as neither missing nor published."""
    operation = runs.start(SYMBOL, 11, 13)
    await scanned(runs)
    collector.answer(11, 13)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (True, (14, 1))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("TAIL_TIMEOUT", "the tail could not be read"), "the tail could not be read"),
        (ValueError("secret"), "the log tells why"),
    ],
)
async def test_failed_scan_is_the_operations_error(
    collector: Collector, runs: Backfills, error: Exception, message: str
) -> None:
    collector.scan_error = error
    name = runs.start(SYMBOL, 11, 13).name
    await scanned(runs)
    operation = runs.get(name)
    assert (operation.done, operation.error.code, operation.error.message) == (True, 14, message)
    assert collector.bench.commands() == []


async def test_unknown_name_is_not_found(runs: Backfills) -> None:
    with pytest.raises(NotFound) as exc_info:
        runs.get("collectors/binance/backfills/nothing")
    assert exc_info.value.reason == "BACKFILL_NOT_FOUND"


async def test_oldest_of_many_is_forgotten(collector: Collector, runs: Backfills) -> None:
    names = [runs.start(SYMBOL, 1, 2).name for _ in range(KEPT + 1)]
    await scanned(runs)
    with pytest.raises(NotFound):
        runs.get(names[0])
    assert runs.get(names[1].rpartition("/")[2]).name == names[1]
    assert len({*names}) == KEPT + 1
