"""Connections, requests and engine against the simulated exchange, without Kafka."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_simulators.testing import Simulator
from coinmesh_sources.digest import parse
from coinmesh_sources.inputs import Input, Record
from coinmesh_sources.requests import RequestQueue
from collector_binance.core.commands import ControlReply
from collector_binance.core.encode import Headers
from collector_binance.core.engine import Engine
from collector_binance.exchange import request, rest_client
from collector_binance.settings import CollectorSettings
from collector_binance.streams import Streams
from meshkit.metrics import Metrics

SECONDS = 120.0
A, B = "AAAUSDT", "BBBUSDT"


class Driver:
    """An engine between connections and REST; events are kept."""

    def __init__(self, settings: CollectorSettings) -> None:
        self.engine = Engine(Headers.offline())
        self.events: list[Record] = []
        metrics = Metrics()
        self.rest = rest_client(settings, metrics)
        self.requests = RequestQueue(self.rest, "binance/s/0", self.give, metrics)
        self.streams = Streams(settings, "binance/s", self.give, self.frame, metrics)

    def frame(self, frame: bytes, receive_ns: int, connection: str) -> None:
        self.events += self.engine.process(frame, receive_ns, connection)
        self._carry_out()

    def give(self, engine_input: Input) -> None:
        self.events += self.engine.apply(engine_input)
        self._carry_out()

    def _carry_out(self) -> None:
        commands = self.engine.commands[:]
        self.engine.commands.clear()
        for command in commands:
            if isinstance(command, ControlReply):
                self.streams.on_reply(command.connection, command.frame)
            else:
                self.requests.put(request(command, 1000))

    async def wake(self) -> None:
        """Give the engine the ticks on which it repeats requests."""
        while True:
            await asyncio.sleep(0.1)
            if (self.engine.deadline or 0) <= (now := time.time_ns()):
                self.give(Input(FrameKind.FRAME_KIND_TICK, "binance/s/0", now))

    def count(self, symbol: str) -> int:
        """Trades of a symbol that were taken."""
        market = self.engine.markets.get(symbol)
        return market.trades.events if market else 0

    def gaps(self) -> list[Any]:
        """Gap records, oldest first."""
        records = [value for topic, _, value in self.events if topic == topics.GAPS.name]
        return [parse(topics.GAPS.name, value) for value in records]


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Simulator]:
    simulator = Simulator(tmp_path / "exchange", {"symbols": f"{A},{B}", "rate": 40})
    await simulator.start()
    yield simulator
    await simulator.end(signal.SIGKILL)


@pytest.fixture
async def driver(exchange: Simulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Driver]:
    for name, value in {
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9",
        "BINANCE_WS_URL": exchange.ws,
        "BINANCE_REST_URL": exchange.base,
        "BINANCE_MTLS": "0",
    }.items():
        monkeypatch.setenv(f"COINMESH_{name}", value)
    driver = Driver(CollectorSettings())  # type: ignore[call-arg]
    async with driver.rest:
        working = [asyncio.create_task(work()) for work in (driver.requests.run, driver.wake)]
        yield driver
        await driver.streams.close()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_symbols_added_and_removed_while_connecting_take_effect(driver: Driver) -> None:
    connections = driver.streams
    await connections.add([A])
    # The slot is connecting: no connection takes requests yet.
    assert not connections.open
    await connections.add([B])
    await connections.remove(A)
    await until(lambda: driver.count(B) > 5)
    (connection,) = connections.open.values()
    assert {name.partition("@")[0] for name in connection.streams} == {B.lower()}
    assert driver.count(A) == 0


@pytest.mark.slow
async def test_gaps_of_several_symbols_are_repaired_over_rest(
    driver: Driver, exchange: Simulator
) -> None:
    await driver.streams.add([A, B])
    await until(lambda: driver.count(A) > 5 and driver.count(B) > 5)
    for symbol in (A, B):
        await exchange.fault(kind="drop", stream=f"{symbol.lower()}@trade", count=3)
    await until(lambda: {gap.symbol for gap in driver.gaps() if gap.state == 2} == {A, B})
    assert all(gap.revision > 10**15 for gap in driver.gaps())
    await until(lambda: driver.engine.markets[A].book.state == "live")
