"""Backfills of trades on a real engine; the topic of trades is a set of ids."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from engine_bench import REST, TRADES, Bench
from google.longrunning.operations_pb2 import Operation

from coinmesh_contracts import framing, topics
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources import checkpoints
from coinmesh_sources.backfills import KEPT, Backfills
from coinmesh_sources.inputs import Input
from coinmesh_sources.rest import Answer
from collector_binance import trade_backfill
from collector_binance.core.commands import FetchTrades
from collector_binance.testing import SYMBOL, past_trade, trade
from collector_binance.trade_backfill import MAX_IDS, Presence, TradeBackfill, span_of
from meshkit.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable

NEWEST = 100


class Record:
    """A record of the trades' topic."""

    def __init__(self, key: bytes, number: int) -> None:
        self._key, self._trade = key, Trade(trade_id=number)

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return framing.header(1) + self._trade.SerializeToString()


class Collector:
    """A collector whose topic holds the trades of `topic`.

    The first scans wait for an event of `gates` each, all others for `scanning`.
    """

    def __init__(self) -> None:
        self.bench = Bench()
        self.bench.open()
        self.bench.send(trade(NEWEST))
        self.engine: Any = self.bench.engine
        self.history: bytes = b"[]"
        self.topic = {NEWEST}
        self.scanning = asyncio.Event()
        self.scanning.set()
        self.gates: list[asyncio.Event] = []
        self.scan_error: Exception | None = None
        self.scans: list[datetime | None] = []

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

    def input(self, kind: FrameKind.ValueType, payload: bytes, context: str) -> Input:
        return Input(kind, REST, self.bench.now, payload, context)

    async def get(self, path: str, arguments: dict[str, Any], weight: int) -> Answer:
        """The exchange's history."""
        return Answer(f"GET {path}", 200, self.history, 1, 1)

    async def records(
        self, _: object, client: str, topic: topics.Topic, since: datetime | None
    ) -> AsyncGenerator[Record, None]:
        """The topic's trades, among those of another instrument."""
        assert (client, topic) == ("collector-checkpoint", topics.TRADES)
        self.scans.append(since)
        present = sorted(self.topic)
        await (self.gates.pop(0) if self.gates else self.scanning).wait()
        if self.scan_error is not None:
            raise self.scan_error
        for number in present:
            yield Record(b"binance.ETH-USDT", number + 1)
            yield Record(b"binance.BTC-USDT", number)

    def answer(self, first: int, *numbers: int) -> None:
        """The exchange answers a request of past trades."""
        body = json.dumps([past_trade(number) for number in numbers]).encode()
        target = f"GET /api/v3/historicalTrades?symbol={SYMBOL}&fromId={first}&limit=9"
        self.bench.give("REST", REST, body, target)

    def published(self) -> list[int]:
        return sorted(event.trade_id for event in self.bench.of(TRADES))


class Runs:
    """The operations of one collector."""

    def __init__(self, collector: Collector) -> None:
        self._collector, self.backfills = collector, Backfills("binance")

    def start(self, first: int, last: int) -> Operation:
        request = pb.BackfillRequest()
        request.ids.first, request.ids.last = first, last
        collector: Any = self._collector
        market = collector.engine.markets[SYMBOL]
        span = span_of(request, market.trades.last_id, SYMBOL)
        settings: Any = SimpleNamespace(service_name="collector")
        backfill = TradeBackfill(collector, collector, settings, market, span)
        return self.backfills.start(backfill)

    def get(self, name: str) -> Operation:
        return self.backfills.get(name)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()
    monkeypatch.setattr(checkpoints, "records", collector.records)
    return collector


@pytest.fixture
async def runs(collector: Collector) -> Runs:
    return Runs(collector)


async def scanned(runs: Runs) -> None:
    """Wait until every backfill has scanned the topic."""
    await asyncio.gather(*runs.backfills._tasks)


def progress(operation: Operation) -> tuple[int, int]:
    """Next id and trades published."""
    metadata = pb.BackfillMetadata()
    assert operation.metadata.Unpack(metadata)
    return metadata.next_id, metadata.published


@pytest.mark.parametrize(
    ("first", "last", "newest", "kind", "reason"),
    [
        (0, 5, NEWEST, InvalidArgument, "TRADE_RANGE_INVALID"),
        (6, 5, NEWEST, InvalidArgument, "TRADE_RANGE_INVALID"),
        (1, MAX_IDS + 1, NEWEST, InvalidArgument, "TRADE_RANGE_TOO_LARGE"),
        (NEWEST + 1, NEWEST + 2, NEWEST, InvalidArgument, "TRADE_RANGE_FUTURE"),
        (1, 5, None, FailedPrecondition, "INSTRUMENT_NOT_LIVE"),
    ],
)
def test_invalid_range_is_rejected(
    first: int, last: int, newest: int | None, kind: type[MeshError], reason: str
) -> None:
    request = pb.BackfillRequest(channels=["trade"])
    request.ids.first, request.ids.last = first, last
    with pytest.raises(kind) as exc_info:
        span_of(request, newest, SYMBOL)
    assert exc_info.value.reason == reason


@pytest.mark.parametrize("present", [[], [5], [5, 6, 7], [4, 6, 8], [7]])
def test_presence_reports_missing_spans(present: list[int]) -> None:
    presence = Presence((5, 7))
    for number in present:
        presence.add(number)
    missing = [n for first, last in presence.missing() for n in range(first, last + 1)]
    assert missing == [n for n in (5, 6, 7) if n not in present]


async def test_topic_is_read_from_the_first_trades_time(collector: Collector, runs: Runs) -> None:
    collector.history = json.dumps([past_trade(11)]).encode()
    runs.start(11, 15)
    await scanned(runs)
    made = datetime.fromtimestamp(past_trade(11)["time"] / 1e6, UTC)
    assert collector.scans == [made - checkpoints.MARGIN]


@pytest.mark.parametrize("history", [b"[]", b"<html>", json.dumps([past_trade(12)]).encode()])
async def test_topic_is_read_whole_without_the_first_trade(
    collector: Collector, runs: Runs, history: bytes
) -> None:
    collector.history = history
    runs.start(11, 15)
    await scanned(runs)
    assert collector.scans == [None]


async def test_only_missing_trades_are_requested(collector: Collector, runs: Runs) -> None:
    collector.topic |= {12, 13, 15}
    operation = runs.start(11, 15)
    assert (operation.done, progress(operation)) == (False, (11, 0))
    await scanned(runs)
    assert collector.bench.commands() == [FetchTrades(SYMBOL, 11, 1)]
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


async def test_complete_topic_ends_without_a_request(collector: Collector, runs: Runs) -> None:
    collector.topic |= {11, 12}
    operation = runs.start(11, 12)
    await scanned(runs)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (True, (13, 0))
    assert collector.bench.commands() == []


async def test_range_ends_at_the_newest_trade(collector: Collector, runs: Runs) -> None:
    runs.start(NEWEST - 1, NEWEST + 50)
    await scanned(runs)
    assert collector.bench.commands() == [FetchTrades(SYMBOL, NEWEST - 1, 1)]


async def test_open_gap_is_not_requested_twice(collector: Collector, runs: Runs) -> None:
    collector.bench.send(trade(NEWEST + 4))
    assert collector.bench.commands() == [FetchTrades(SYMBOL, NEWEST + 1, 3)]
    runs.start(NEWEST - 2, NEWEST + 4)
    await scanned(runs)
    market = collector.engine.markets[SYMBOL]
    assert [(gap.first, gap.last) for gap in market.trades.open_gaps] == [
        (NEWEST - 2, NEWEST - 1),
        (NEWEST + 1, NEWEST + 3),
    ]


async def test_trades_on_their_way_to_kafka_are_not_requested(
    collector: Collector, runs: Runs
) -> None:
    for number in range(NEWEST + 1, NEWEST + 4):
        collector.bench.send(trade(number))
    runs.start(NEWEST, NEWEST + 3)
    await scanned(runs)
    assert collector.bench.commands() == []


async def test_gap_repaired_during_the_scan_is_not_requested(
    collector: Collector, runs: Runs
) -> None:
    collector.bench.send(trade(NEWEST + 4))
    collector.bench.commands()
    collector.scanning.clear()
    runs.start(NEWEST, NEWEST + 4)
    while not collector.scans:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    collector.answer(NEWEST + 1, NEWEST + 1, NEWEST + 2, NEWEST + 3)
    assert collector.engine.markets[SYMBOL].trades.open_gaps == []
    collector.scanning.set()
    await scanned(runs)
    assert collector.bench.commands() == []


async def test_overlapping_backfills_publish_each_trade_once(
    collector: Collector, runs: Runs
) -> None:
    first_scan, second_scan = collector.gates[:] = asyncio.Event(), asyncio.Event()
    for span in ((11, 13), (12, 14)):
        runs.start(*span)
    while not collector.scans:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    first_scan.set()
    while not collector.engine.markets[SYMBOL].trades.open_gaps:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    while collector.gates:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    collector.answer(11, 11, 12, 13)
    second_scan.set()
    await scanned(runs)
    collector.answer(12, 12, 13, 14)
    collector.answer(14, 14)
    assert collector.published() == [11, 12, 13, 14, NEWEST]


async def test_wide_open_gap_is_excluded_at_once(collector: Collector, runs: Runs) -> None:
    """Its ids are not enumerated, which would stop the event loop for hours."""
    newest = 10**12
    collector.bench.send(trade(newest))
    runs.start(NEWEST, NEWEST + 5)
    await scanned(runs)
    (gap,) = collector.engine.markets[SYMBOL].trades.open_gaps
    assert (gap.first, gap.last) == (NEWEST + 1, newest - 1)


async def test_incomplete_history_ends_the_backfill(collector: Collector, runs: Runs) -> None:
    """Trades that the exchange no longer has count as neither missing nor published."""
    operation = runs.start(11, 13)
    await scanned(runs)
    collector.answer(11, 13)
    operation = runs.get(operation.name)
    assert (operation.done, progress(operation)) == (True, (14, 1))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Unavailable("TAIL_TIMEOUT", "the tail could not be read"), "the tail could not be read"),
        (ValueError("secret"), "see the collector's log"),
    ],
)
async def test_failed_scan_is_the_operations_error(
    collector: Collector, runs: Runs, error: Exception, message: str
) -> None:
    collector.scan_error = error
    name = runs.start(11, 13).name
    await scanned(runs)
    operation = runs.get(name)
    assert (operation.done, operation.error.code, operation.error.message) == (True, 14, message)
    assert collector.bench.commands() == []


async def test_backfill_of_too_many_spans_is_rejected(
    collector: Collector, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a gap, and a checkpoint holds all of them."""
    monkeypatch.setattr(trade_backfill, "MAX_OPEN_GAPS", 3)
    collector.topic |= {12, 14, 16, 18}
    name = runs.start(11, 18).name
    await scanned(runs)
    assert "4 spans" in runs.get(name).error.message
    assert collector.bench.commands() == []
    accepted = runs.start(11, 16).name
    await scanned(runs)
    assert not runs.get(accepted).HasField("error")


async def test_unknown_name_is_not_found(runs: Runs) -> None:
    with pytest.raises(NotFound) as exc_info:
        runs.get("collectors/binance/backfills/nothing")
    assert exc_info.value.reason == "BACKFILL_NOT_FOUND"


async def test_oldest_of_many_is_forgotten(collector: Collector, runs: Runs) -> None:
    names = [runs.start(1, 2).name for _ in range(KEPT + 1)]
    await scanned(runs)
    with pytest.raises(NotFound):
        runs.get(names[0])
    assert runs.get(names[1].rpartition("/")[2]).name == names[1]
    assert len({*names}) == KEPT + 1
