"""For tests: a simulator process on free ports, and markets driven without clock or network."""

import asyncio
import json
import os
import random
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from coinmesh_simulators.exchange.faults import Faults
from coinmesh_simulators.exchange.generator import Generator
from coinmesh_simulators.exchange.hub import Hub
from coinmesh_simulators.exchange.instruments import listed
from coinmesh_simulators.exchange.market import SymbolMarket
from coinmesh_simulators.exchange.server import Server
from coinmesh_simulators.exchange.settings import SimulatorSettings
from coinmesh_simulators.exchange.store import Store

BEGIN = 1_723_161_298_000_000  # µs, two seconds before a full minute


class Listener:
    """A subscriber that stores received frames, decoded."""

    def __init__(self, hub: Hub, streams: list[str], *, micro: bool = True) -> None:
        self.micro = micro
        self.combined = True
        self.streams = dict.fromkeys(streams)
        self.frames: list[tuple[str, dict[str, Any]]] = []
        self.messages: list[bytes] = []
        hub.subscribe(self, streams)

    def queue(self, frame: bytes) -> None:
        """Decode a frame and store it."""
        size = frame[1]
        message = frame[2 if size < 126 else 4 if size == 126 else 10 :]
        decoded = json.loads(message)
        self.messages.append(message)
        self.frames.append((decoded["stream"], decoded["data"]))

    def flush(self) -> None:
        """Do nothing: no frame is buffered."""


class LocalBook:
    """A client's book, maintained by the venue's procedure."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.update_id = snapshot["lastUpdateId"]
        self.sides: list[dict[str, str]] = [dict(snapshot[side]) for side in ("bids", "asks")]

    def apply(self, event: dict[str, Any]) -> None:
        """Apply a depth event; fail on a gap."""
        if event["u"] <= self.update_id:
            return
        assert event["U"] <= self.update_id + 1, "a gap"
        for levels, changes in zip(self.sides, (event["b"], event["a"]), strict=True):
            for price, size in changes:
                levels[price] = size
                if Decimal(size) == 0:
                    del levels[price]
        self.update_id = event["u"]

    def top(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return best bid and ask, each with its size."""
        bid = max(self.sides[0], key=float)
        ask = min(self.sides[1], key=float)
        return (bid, self.sides[0][bid]), (ask, self.sides[1][ask])


class Bench:
    """Markets driven event by event, without a clock or a network."""

    def __init__(self, directory: Path, symbols: str, seed: int) -> None:
        self.hub = Hub(Faults())
        self.store = Store(directory)
        self.markets = {
            instrument.symbol: SymbolMarket(
                self.store.add_symbol(instrument.symbol), instrument, self.hub, self.store, {}
            )
            for instrument in listed(symbols)
        }
        self.random = random.Random(seed)
        self.generator = Generator(self.random)
        self.now = BEGIN
        self._tenths = BEGIN // 100_000
        for market in self.markets.values():
            self.generator.populate(market)

    def step(self, microseconds: int) -> None:
        """Generate one event after `microseconds`, and the tenths of a second in between."""
        self.now += microseconds
        while (self._tenths + 1) * 100_000 <= self.now:
            self._tenths += 1
            at = self._tenths * 100_000
            for market in self.markets.values():
                market.tenth(at)
                if self._tenths % 10 == 0:
                    market.klines.roll(at, at)
                    market.second(at)
        market = self.random.choice(list(self.markets.values()))
        self.generator.event(market, self.now, self.now + 2_000, True)


class CaptureFile:
    """A capture on disk, with its frames for comparison."""

    def __init__(self, path: Path, lines: list[bytes], symbols: list[str]) -> None:
        self.path = path
        self.symbols = symbols
        self.frames = [line.partition(b" ")[2] for line in lines if b'"stream"' in line]
        self.streams = [
            f"{symbol.lower()}@{kind}"
            for symbol in symbols
            for kind in ("trade", "bookTicker", "depth@100ms")
        ]

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all streams of a kind."""
        decoded = [json.loads(frame) for frame in self.frames]
        return [frame["data"] for frame in decoded if frame["stream"].endswith("@" + kind)]


class Simulator:
    """A `coinmesh-sim-exchange` process and a client session for it, under TLS with `context`."""

    def __init__(
        self, state: Path, settings: dict[str, Any], context: ssl.SSLContext | None = None
    ) -> None:
        self._context = context
        values = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "state_dir": state}
        values |= settings
        clean = {k: v for k, v in os.environ.items() if not k.startswith("COINMESH_SIM_")}
        self._env = clean | {f"COINMESH_SIM_{k.upper()}": str(v) for k, v in values.items()}
        self._process: subprocess.Popen[str] | None = None
        self.session: aiohttp.ClientSession

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        self._process = self._spawn()
        self._connect(await asyncio.to_thread(self._ports))

    def _connect(self, ports: Sequence[int | str]) -> None:
        scheme = "https" if self._context else "http"
        self.base, self.admin = (f"{scheme}://127.0.0.1:{port}" for port in ports)
        self.ws = self.base.replace("http", "ws")
        connector = aiohttp.TCPConnector(ssl=self._context or True)
        self.session = aiohttp.ClientSession(connector=connector)

    def _spawn(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", "from coinmesh_simulators.exchange.main import main; main()"],
            env=self._env,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ports(self) -> list[str]:
        assert self._process is not None
        assert self._process.stderr is not None
        ports: list[str] = []
        log = ""
        while len(ports) < 2:
            line = self._process.stderr.readline()
            log += line
            if not line:
                raise AssertionError(f"the simulator ended: {log}")
            ports += re.findall(r'listening on [^"]*:(\d+)"', line)
        return ports

    async def end(self, number: int) -> None:
        """Send a signal and wait until the process has exited."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            await asyncio.to_thread(self._process.wait)
        if self._process is not None and self._process.stderr is not None:
            self._process.stderr.close()
        self._process = None
        await self.session.close()

    async def restart(self, number: int = signal.SIGKILL) -> None:
        """Stop the process and start it on the same state; its ports change."""
        await self.end(number)
        await self.start()

    async def get(self, path: str, **params: Any) -> tuple[int, Any, dict[str, str]]:
        """Return status, body and headers of a GET below /api/v3, or of a complete URL."""
        url = path if path.startswith("http") else f"{self.base}/api/v3/{path}"
        async with self.session.get(url, params=params) as response:
            return response.status, await response.json(), dict(response.headers)

    async def json(self, path: str, **params: Any) -> Any:
        """Return the body of a GET that must succeed."""
        status, body, _ = await self.get(path, **params)
        assert status == 200, body
        return body

    async def truth(self, symbol: str) -> dict[str, Any]:
        """Return the simulator's own state of a symbol."""
        return await self.json(f"{self.admin}/admin/market/{symbol}")

    async def listing(self, symbol: str, **change: Any) -> dict[str, Any]:
        """Change a symbol's status (`status="HALT"`) or listing (`action="delist"`)."""
        url = f"{self.admin}/admin/market/{symbol}"
        async with self.session.post(url, json=change) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def status(self) -> dict[str, Any]:
        """Return phase, position and connections."""
        return await self.json(f"{self.admin}/admin/status")

    async def fault(self, **request: Any) -> dict[str, Any]:
        """Request a fault."""
        async with self.session.post(f"{self.admin}/admin/faults", json=request) as response:
            assert response.status == 201, await response.text()
            return await response.json()

    async def faults(self) -> list[dict[str, Any]]:
        """Return the faults with their counters."""
        return (await self.json(f"{self.admin}/admin/faults"))["faults"]

    async def clear(self) -> None:
        """End all faults."""
        async with self.session.delete(f"{self.admin}/admin/faults") as response:
            assert response.status == 200

    def connect(self, path: str, **options: Any) -> Any:
        """Return a WebSocket connection, as a context manager."""
        return self.session.ws_connect(self.ws + path, **options)


class LocalSimulator(Simulator):
    """A simulator in the test's own process and event loop: quick to start, can't be killed."""

    def __init__(
        self, state: Path, settings: dict[str, Any], context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(state, settings, context)
        values: dict[str, Any] = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
        values |= {"state_dir": state, **settings}
        self._settings = SimulatorSettings(**values)
        self._stop = asyncio.Event()

    async def start(self) -> None:
        """Start it on free ports."""
        server = Server(self._settings)
        self._connect(await server.listen())
        self._running = asyncio.create_task(server.run(self._stop.wait()))

    async def end(self, number: int) -> None:
        """Stop it, like a signal would."""
        self._stop.set()
        await self._running
        await self.session.close()
