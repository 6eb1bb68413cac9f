"""BinanceCollector without Kafka: what a start collects, listings and repairs on request."""

from typing import Any

import pytest
from fakes import Exchange, Rest, collector_settings, entry, exchange_info

from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_sources.checkpoints import Saved
from collector_binance.catalogue import Catalogue
from collector_binance.collector import BinanceCollector
from meshkit.metrics import Metrics
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


def checkpoints(*symbols: str) -> dict[str, Checkpoint]:
    return {f"trade:{each}": Checkpoint(stream=f"trade:{each}", symbol=each) for each in symbols}


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
