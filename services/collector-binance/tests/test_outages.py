"""The service when what it depends on is away or wrong: Kafka down, a symbol unknown."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from world import World

from coinmesh_simulators.testing import Simulator
from coinmesh_sources.testing import SECONDS, CollectorProcess, eventually

pytestmark = pytest.mark.component


async def test_an_outage_of_kafka_beyond_what_can_wait_loses_nothing(
    world: World, mesh: Any
) -> None:
    await world.published()
    broker = mesh.component("kafka")
    broker.stop()
    try:
        await eventually(
            lambda: "reading from the exchange paused" in world.service.text(), "it waits"
        )
        assert "Kafka at" in world.service.text()
        made = (await world.exchange.truth(world.symbol))["lastTradeId"]
        # The venue cuts who doesn't read.
        await world.exchange.fault(kind="disconnect")

        async def has_moved() -> bool:
            return (await world.exchange.truth(world.symbol))["lastTradeId"] > made + 40

        await eventually(has_moved, "trades are made that nobody reads")
    finally:
        broker.start()
    await eventually(lambda: "exchange resumed" in world.service.text(), "Kafka is back")
    await world.published(beyond=20)
    await eventually(lambda: is_whole(world.trade_ids), "all is repaired")
    world.assert_complete()


def is_whole(ids: list[int]) -> bool:
    return len(set(ids)) == max(ids) - min(ids) + 1


async def test_a_killed_broker_costs_nothing(world: World, mesh: Any) -> None:
    await world.published()
    broker = mesh.component("kafka")
    broker.kill()
    broker.wait_ready()
    await world.published(beyond=20)
    world.assert_complete()


async def test_an_unknown_symbol_is_told_and_ends_the_start(
    kafka: dict[str, str], tmp_path: Path
) -> None:
    exchange = Simulator(tmp_path / "exchange", {"symbols": "BTCUSDT"})
    await exchange.start()
    environment = kafka | {
        "COINMESH_BINANCE_WS_URL": exchange.ws,
        "COINMESH_BINANCE_REST_URL": exchange.base,
        "COINMESH_BINANCE_SYMBOLS": "BTCUSDT,NOPEUSDT",
    }
    serve = ["collector_binance.main", "serve"]
    service = CollectorProcess(serve, environment, tmp_path / "log")
    service.spawn()
    try:
        assert service.process is not None
        assert await asyncio.to_thread(service.process.wait, SECONDS) == 1
        assert "has no symbol NOPEUSDT" in service.text()
    finally:
        await service.end(signal.SIGKILL)
        await exchange.end(signal.SIGKILL)
