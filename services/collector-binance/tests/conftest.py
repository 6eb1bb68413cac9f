"""Shared fixtures of the collector's tests: the recorded capture, a collector with its exchange."""

import asyncio
import gzip
import hashlib
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coinmesh_access import pki
from coinmesh_access import table as access
from coinmesh_access.agent import Agent, Place
from coinmesh_access.login import SETUP
from coinmesh_access.pki import Lives
from coinmesh_local import local_user
from coinmesh_simulators.testing import Simulator
from coinmesh_sources.testing import CollectorProcess, Log
from meshkit.metrics import Metrics
from meshkit.settings import KafkaSettings

sys.path.insert(0, str(Path(__file__).parent))
from engine_bench import Bench
from world import World

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def capture() -> Path:
    """Return the recorded BTCUSDT capture."""
    folder = Path(os.environ.get("COINMESH_RECORDED", CHECKOUT.parent / "shared" / "recorded"))
    path = folder / "binance" / "spot_btcusdt_20240808.gz"
    if not path.exists():
        pytest.skip(f"no recorded capture at {path}; set COINMESH_RECORDED to its folder")
    return path


@pytest.fixture(scope="session")
def capture_lines(capture: Path) -> list[bytes]:
    """Return the recorded capture's lines."""
    with gzip.open(capture) as file:
        return file.read().splitlines()


@pytest.fixture
def bench() -> Bench:
    """An engine with an open connection."""
    bench = Bench()
    bench.open()
    return bench


@pytest.fixture
def replayed(tmp_path: Path) -> Path:
    """Return a directory for a replay's output."""
    return tmp_path / "out"


@pytest.fixture
def kafka(mesh: Any) -> dict[str, str]:
    """Return the settings of a mesh with topics and schemas."""
    mesh.require("topics", "schemas", "kafka-access")
    return mesh.settings_of("collector-binance")


@pytest.fixture
async def world(
    mesh: Any, kafka: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """Yield a world with a symbol used by no other test, because the topics are shared."""
    exchange = {"symbols": symbol(request, tmp_path), "rate": 40}
    async with running(mesh, tmp_path, exchange, kafka | {"COINMESH_BINANCE_MTLS": "0"}) as one:
        yield one


@pytest.fixture
async def pair(
    mesh: Any, kafka: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[World, World]]:
    """Yield two symbols of one exchange, which one collector has on one connection."""
    first = symbol(request, tmp_path)
    second = f"SECOND{first}"
    exchange = {"symbols": f"{first},{second}", "rate": 60}
    async with running(mesh, tmp_path, exchange, kafka | {"COINMESH_BINANCE_MTLS": "0"}) as one:
        yield one, one.beside(second)


@pytest.fixture
async def short_lived(
    mesh: Any, kafka: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """Yield a world under TLS, in which both sides' certificates are valid for half a minute."""
    table, place = access.load(), local_user.vault(mesh.mesh)
    places = [Place(name, tmp_path / name) for name in ("sim-exchange", "collector-binance")]

    def live(lives: Lives) -> None:
        for each in places:
            admin = place.login(mesh.home.secrets, SETUP)
            pki.ensure_role(admin, table, each.service, lives)

    live(Lives(leaf=30))
    try:
        agent = Agent(place, mesh.home.secrets, table, {}, Metrics())
        await agent.once(places)
        renewing = asyncio.create_task(agent.run(places))
        exchange = {
            "symbols": symbol(request, tmp_path),
            "rate": 40,
            "tls_dir": places[0].directory,
            "clients": "collector-binance,deploy",
        }
        environment = kafka | {
            "COINMESH_BINANCE_MTLS": "1",
            "COINMESH_TLS_DIR": str(places[1].directory),
        }
        async with running(mesh, tmp_path, exchange, environment, mesh.tls()) as one:
            yield one
        renewing.cancel()
        await asyncio.wait({renewing})
    finally:
        live(Lives())


def symbol(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a symbol that is unique to the test."""
    digest = hashlib.sha256(f"{request.node.nodeid}{tmp_path}".encode()).hexdigest()
    return f"T{int(digest[:8], 16)}USDT"


@asynccontextmanager
async def running(
    mesh: Any,
    tmp_path: Path,
    settings: dict[str, Any],
    environment: dict[str, str],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[World]:
    """Yield an exchange and a collector with these settings, as seen from the first symbol."""
    exchange, symbols = Simulator(tmp_path / "exchange", settings, context), settings["symbols"]
    await exchange.start()
    environment = environment | {
        "COINMESH_BINANCE_WS_URL": exchange.ws,
        "COINMESH_BINANCE_REST_URL": exchange.base,
        "COINMESH_BINANCE_SYMBOLS": symbols,
        "COINMESH_BINANCE_STALL_SECONDS": "3",
        "COINMESH_BINANCE_WAITING_RECORDS": "300",
        "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
    }
    service = CollectorProcess(
        ["collector_binance.main", "serve"], environment, tmp_path / "collector.log"
    )
    log = Log(mesh.read(KafkaSettings))
    try:
        await service.start()
        first = symbols.partition(",")[0]
        yield World(first, exchange, service, log, mesh.grpc_credentials("envoy"))
    finally:
        await service.end(signal.SIGKILL)
        await exchange.end(signal.SIGKILL)
        log.close()
