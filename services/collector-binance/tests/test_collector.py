"""BinanceCollector without Kafka: what a start collects, listings and repairs on request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fakes import Exchange, Rest, collector_settings, entry, exchange_info, until

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_contracts.events.v1.liveness_pb2 import CoverageState
from coinmesh_sources.checkpoints import Saved
from coinmesh_sources.inputs import Input
from collector_binance.catalogue import Catalogue
from collector_binance.collector import BinanceCollector
from collector_binance.core.engine import Engine
from collector_binance.exchange import HISTORY_PATH
from collector_binance.streams import Streams
from collector_binance.testing import BEGIN_NS, trade
from meshkit.errors import NotFound
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import SchemaIds
from meshkit.settings import SettingsError
from meshkit.tracing import Tracing


class Harness:
    """A collector and its exchange."""

    def __init__(self, **settings: Any) -> None:
        chosen = collector_settings(**settings)
        self.rest, self.exchange = Rest(), Exchange()
        self.rest.body = exchange_info(entry("BTC"), entry("ETH"))
        self.collector = BinanceCollector(chosen, Tracing(chosen))
        self.collector.register(Metrics())
        self.collector.catalogue = Catalogue(self.rest)  # type: ignore[arg-type]

    async def chosen(self, saved: Saved | None = None) -> list[str]:
        """The symbols with which a start begins."""
        self.collector.epoch = 1
        await self.collector.catalogue.refresh()
        await self.collector.restore(saved or Saved())
        return self.collector._symbols

    @property
    def streams(self) -> Streams:
        """The collector's streams."""
        assert self.collector.streams is not None
        return self.collector.streams

    @property
    def engine(self) -> Engine:
        """The collector's engine."""
        assert self.collector.engine is not None
        return self.collector.engine

    @asynccontextmanager
    async def running(self, monkeypatch: pytest.MonkeyPatch, *symbols: str) -> AsyncIterator[None]:
        """Collect symbols; nothing is sent to Kafka."""
        await self.chosen()
        collector, producer = self.collector, cast(Producer, None)
        ids = SchemaIds({topic.name: 1 for topic in topics.ALL})
        engine, element = collector.create(ids)
        collector._wire(engine, element, ids, producer)
        self.exchange.streams = self.streams
        self.exchange.session = collector.session
        self.exchange.replace_network(monkeypatch)
        for symbol in symbols:
            await collector._add(symbol)
        await until(lambda: self.streams.is_live)
        yield
        await collector.disconnect()


def checkpoints(*symbols: str) -> dict[str, Checkpoint]:
    return {f"trade:{each}": Checkpoint(stream=f"trade:{each}", symbol=each) for each in symbols}


async def test_silent_connection_covers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness()
    async with harness.running(monkeypatch, "BTCUSDT"):
        states = {each.state for each in harness.collector.coverage()}
        assert CoverageState.COVERAGE_STATE_LIVE in states
        (connection,) = harness.streams.open.values()
        connection.socket.last_message -= 61
        states = {each.state for each in harness.collector.coverage()}
        assert states == {CoverageState.COVERAGE_STATE_DOWN}


async def test_unknown_symbol_of_the_settings_prevents_the_start() -> None:
    with pytest.raises(SettingsError, match="NOPEUSDT"):
        await Harness(binance_symbols="BTCUSDT,NOPEUSDT").chosen()


async def test_delisted_symbol_of_the_settings_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness(binance_symbols="BTCUSDT,OLDUSDT")
    assert await harness.chosen(Saved(streams=checkpoints("OLDUSDT"))) == ["BTCUSDT"]
    assert "OLDUSDT was delisted" in caplog.text


async def test_removed_symbol_need_not_be_listed() -> None:
    harness = Harness(binance_symbols="BTCUSDT,OLDUSDT")
    assert await harness.chosen(Saved(subscriptions={"OLDUSDT": False})) == ["BTCUSDT"]


async def test_start_applies_changes_of_subscriptions() -> None:
    changed = {"ETHUSDT": True, "BTCUSDT": False, "GONEUSDT": True}
    harness = Harness(binance_symbols="BTCUSDT")
    assert await harness.chosen(Saved(subscriptions=changed)) == ["ETHUSDT"]


def queued(collector: BinanceCollector) -> list[str]:
    """The paths of the requests that wait."""
    assert collector._requests is not None
    queue = collector._requests._queue
    return [queue.get_nowait().request.path for _ in range(queue.qsize())]


async def test_retry_gap_requests_a_deferred_repair_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness()
    async with harness.running(monkeypatch, "BTCUSDT"):
        collector = harness.collector
        for number in (1, 4):
            collector.frame(trade(number), BEGIN_NS, f"{collector.session}/1")
        (gap,) = harness.engine.markets["BTCUSDT"].trades.open_gaps
        target = "GET /api/v3/historicalTrades?symbol=BTCUSDT&fromId=2&limit=2"
        kind = FrameKind.FRAME_KIND_REST
        collector.give(Input(kind, collector.rest_connection, BEGIN_NS, b"no", target, 400))
        assert queued(collector) == [HISTORY_PATH]
        assert not collector.retry_gap("no such gap")
        assert queued(collector) == []
        assert collector.retry_gap(gap.gap_id)
        assert queued(collector) == [HISTORY_PATH]
        assert (gap.failed_attempts, gap.retry_ns) == (0, 0)


async def test_listings_are_followed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One symbol is listed, one halted, and of two delisted ones the operator removes one."""
    harness = Harness(binance_catalogue_seconds=0.01)
    async with harness.running(monkeypatch, "BTCUSDT", "ETHUSDT"):
        collector, rest, streams = harness.collector, harness.rest, harness.streams
        following = asyncio.create_task(collector._follow_listings())
        rest.body = exchange_info(entry("BTC", status="HALT"), entry("ETH"), entry("NEW"))
        await until(lambda: streams.symbols == ["BTCUSDT", "ETHUSDT", "NEWUSDT"])
        await until(lambda: "BTCUSDT does not trade: HALT" in caplog.text)
        info = harness.engine.infos["BTCUSDT"]
        assert info.status == "HALT"
        rest.status = 503
        reads = len(rest.requests)
        await until(lambda: len(rest.requests) > reads + 1)
        assert streams.symbols == ["BTCUSDT", "ETHUSDT", "NEWUSDT"]
        rest.status, rest.body = 200, exchange_info(entry("BTC"), entry("NEW"))
        await until(lambda: streams.symbols == ["BTCUSDT", "NEWUSDT"])
        assert "ETHUSDT was delisted and is no longer collected" in caplog.text
        following.cancel()
        await asyncio.wait({following})


async def test_removed_symbol_that_trades_again_is_not_listed() -> None:
    """It was in HALT when the collector started."""
    harness = Harness()
    harness.rest.body = exchange_info(entry("BTC"), entry("ETH", status="HALT"))
    assert await harness.chosen(Saved(subscriptions={"ETHUSDT": False})) == ["BTCUSDT"]
    catalogue = harness.collector.catalogue
    harness.rest.body = exchange_info(entry("BTC"), entry("ETH"))
    await catalogue.refresh()
    assert catalogue.changes(["BTCUSDT"]) == ([], [])


async def test_delisted_symbol_can_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(binance_symbols="BTCUSDT,ETHUSDT")
    remembered: list[tuple[str, bool]] = []

    async def remember(instrument: str, symbol: str, *, subscribed: bool) -> None:
        del instrument
        remembered.append((symbol, subscribed))

    async with harness.running(monkeypatch, "BTCUSDT", "ETHUSDT"):
        collector = harness.collector
        monkeypatch.setattr(collector, "remember", remember)
        harness.rest.body = exchange_info(entry("BTC"))
        await collector.catalogue.refresh()
        name = collector.resolve("ETHUSDT")
        await collector.unsubscribe(name)
        assert collector.instruments() == ["binance.BTC-USDT"]
        assert remembered == [("ETHUSDT", False)]
        with pytest.raises(NotFound):
            collector.resolve("ETHUSDT")
