"""BinanceCollector without Kafka: what a start collects, listings and repairs on request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from fakes import Exchange, Rest, collector_settings, entry, exchange_info, until

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.liveness_pb2 import CoverageState
from coinmesh_sources.checkpoints import Saved
from collector_binance.catalogue import Catalogue
from collector_binance.collector import BinanceCollector
from collector_binance.core.engine import Engine
from collector_binance.streams import Streams
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
