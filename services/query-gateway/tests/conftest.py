"""Shared fixtures of the gateway's tests: a feeder of events, replicas, a collector."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_local.testing import TestMesh

sys.path.insert(0, str(Path(__file__).parent))
from market_data import instrument
from stack import COMPONENTS, Collector, Feeder, Gateway, wait


@pytest.fixture(scope="module")
def feeder(mesh: TestMesh) -> Iterator[Feeder]:
    mesh.require(*COMPONENTS)
    feeder = Feeder(mesh)
    yield feeder
    feeder.close()


@pytest.fixture(scope="module")
def gateways(mesh: TestMesh, feeder: Feeder, tmp_path_factory: Any) -> Iterator[list[Gateway]]:
    """Yield two replicas over one market."""
    directory: Path = tmp_path_factory.mktemp("gateway")
    feeder.send(instrument("binance.BTC-USDT"), instrument("binance.ETH-USDT"))
    started = [Gateway(mesh, directory, name, reader_queue="50") for name in ("one", "two")]
    yield [gateway.wait_ready() for gateway in started]
    assert [gateway.stop() for gateway in started] == [0, 0]


@pytest.fixture(scope="module")
def collector(mesh: TestMesh, feeder: Feeder) -> Iterator[Collector]:
    collector = Collector(mesh, feeder)
    yield collector
    collector.close()


@pytest.fixture
def gateway(gateways: list[Gateway]) -> Gateway:
    return gateways[0]


@pytest.fixture
def name(
    request: pytest.FixtureRequest, feeder: Feeder, gateways: list[Gateway], collector: Collector
) -> str:
    """Return an instrument unique to the test, present in both replicas and at a collector."""
    symbol = request.node.name.removeprefix("test_").upper().replace("_", "")
    name = f"binance.{symbol[:60]}-USDT"
    feeder.send(instrument(name))
    collector.instruments.add(name)
    ticker = api.GetTickerRequest(instrument=name)
    for gateway in gateways:
        wait(lambda g=gateway: g.market.GetInstrument(api.GetInstrumentRequest(instrument=name)))
        wait(lambda g=gateway: g.market.GetTicker(ticker), lambda t: not t.stale)
    return name
