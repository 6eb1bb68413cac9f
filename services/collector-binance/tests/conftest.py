"""What the collector's tests share: the recorded capture, and a collector with its exchange."""

import gzip
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coinmesh_simulators.testing import Simulator
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

sys.path.insert(0, str(Path(__file__).parent))
from world import Log, Service, World

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def capture() -> Path:
    """The recorded BTCUSDT capture."""
    folder = Path(os.environ.get("COINMESH_RECORDED", CHECKOUT.parent / "shared" / "recorded"))
    path = folder / "binance" / "spot_btcusdt_20240808.gz"
    if not path.exists():
        pytest.skip(f"no recorded capture at {path}; set COINMESH_RECORDED to its folder")
    return path


@pytest.fixture(scope="session")
def capture_lines(capture: Path) -> list[bytes]:
    """The recorded capture, line by line."""
    with gzip.open(capture) as file:
        return file.read().splitlines()


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    """A directory for a replay's output."""
    return tmp_path / "out"


@pytest.fixture
def kafka(mesh: Any) -> dict[str, str]:
    """The settings of a mesh with topics and schemas."""
    mesh.require("topics", "schemas", "kafka-access")
    return mesh.settings_of("collector-binance")


@pytest.fixture
async def world(
    mesh: Any, kafka: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """A world with a symbol that no other test has: the topics are shared."""
    digest = hashlib.sha256(f"{request.node.nodeid}{tmp_path}".encode()).hexdigest()
    symbol = f"T{int(digest[:8], 16)}USDT"
    exchange = Simulator(tmp_path / "exchange", {"symbols": symbol, "rate": 40})
    await exchange.start()
    environment = kafka | {
        "COINMESH_BINANCE_WS_URL": exchange.ws,
        "COINMESH_BINANCE_REST_URL": exchange.base,
        "COINMESH_BINANCE_MTLS": "0",
        "COINMESH_BINANCE_SYMBOLS": symbol,
        "COINMESH_BINANCE_STALL_SECONDS": "3",
        "COINMESH_BINANCE_WAITING_RECORDS": "300",
        "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
    }
    service = Service(environment, tmp_path / "collector.log")
    log = Log(client_config(mesh.read(KafkaSettings), "tests"))
    try:
        await service.start()
        yield World(symbol, exchange, service, log, mesh.grpc_credentials("envoy"))
    finally:
        await service.end(signal.SIGKILL)
        await exchange.end(signal.SIGKILL)
        log.close()
