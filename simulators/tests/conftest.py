"""Simulators and captures for the tests."""

import gzip
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coinmesh_simulators.testing import Bench, CaptureFile, Listener, LocalSimulator, Simulator


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(symbols: str = "BTCUSDT", seed: int = 1) -> Bench:
        made.append(Bench(tmp_path / f"bench{len(made)}", symbols, seed))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


@pytest.fixture
def capture_file(tmp_path: Path, bench) -> CaptureFile:
    """Return a capture: two symbols, 20 market seconds, with inline snapshots near the start."""
    made = bench("BTCUSDT,XRPUSDT", 7)
    for _ in range(10):
        made.step(50_000)
    names = [market.instrument.stream for market in made.markets.values()]
    streams = [
        f"{name}@{kind}" for name in names for kind in ("trade", "bookTicker", "depth@100ms")
    ]
    listener = Listener(made.hub, streams, micro=False)
    lines: list[bytes] = []
    pending = list(made.markets.values())
    for count in range(2_000):
        made.step(10_000)
        receive = (made.now - 1_270_000) * 1000
        lines += [b"%d %b" % (receive + n, message) for n, message in enumerate(listener.messages)]
        listener.messages.clear()
        if count > 30 and pending:
            snapshot = json.dumps(pending.pop().snapshot(1000)).encode()
            lines.append(b"%d %b" % (receive + 999, snapshot))
    path = tmp_path / "capture.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return CaptureFile(path, lines, list(made.markets))


@pytest.fixture
def recorded() -> Path:
    """Return the recorded capture of the real exchange."""
    folder = Path(os.environ.get("COINMESH_RECORDED", "../shared/recorded"))
    path = folder / "binance" / "spot_btcusdt_20240808.gz"
    if not path.exists():
        pytest.skip(f"no recorded capture at {path}: set COINMESH_RECORDED")
    return path


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Yield a function that starts simulators, each in a separate process."""
    async with starting(Simulator, tmp_path) as start:
        yield start


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Yield a function that starts simulators in the test's process: no kill, no high speed."""
    async with starting(LocalSimulator, tmp_path) as start:
        yield start


@asynccontextmanager
async def starting(kind: type[Simulator], directory: Path) -> AsyncIterator[Callable[..., object]]:
    started: list[Simulator] = []

    async def start(context: ssl.SSLContext | None = None, **settings: object) -> Simulator:
        one = kind(directory / f"state{len(started)}", settings, context)
        started.append(one)
        await one.start()
        return one

    yield start
    for one in started:
        await one.end(signal.SIGTERM)
