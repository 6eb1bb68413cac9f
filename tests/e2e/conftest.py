"""One mesh that plays captures one after the other, from the exchange to REST."""

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from coinmesh_local.mesh import Options, caller_environment
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.testing import TestMesh, Workspace, eventually

sys.path.insert(0, str(Path(__file__).parent))
MINUTE = 60
SPEED = 20
# 23:59:05 of a day: minutes, an hour and a day end within the capture.
GENERATED_START_NS = 1_740_787_145 * 10**9
GENERATED_SECONDS = 130
RECORDING_LAG = 20_000_000  # µs


@dataclass
class Run:
    """A capture that the mesh has played, and the expected result.

    `instruments` are the names of the capture's symbols, `trades` the capture's trades by symbol as
    read by the reference, `end` the first minute (s) in which the generated market may trade;
    `played` has its start and end, wall-clock µs since the epoch; `is_last` is true when the mesh
    plays no other after it.
    """

    mesh: TestMesh
    capture: Path
    reference: ModuleType
    trades: dict[str, list[Any]]
    is_last: bool
    played: tuple[int, int] = (0, 0)
    instruments: dict[str, str] = field(default_factory=dict)
    end: int = 0

    def __post_init__(self) -> None:
        self.rest = self.mesh.rest()
        self.exchange = self._client("exchange")
        self.admin = self._client("exchange-admin")
        last = max(rows[-1][1] for rows in self.trades.values()) // 1_000_000
        self.end = last // MINUTE * MINUTE + MINUTE

    def _client(self, endpoint: str) -> httpx.Client:
        url = self.mesh.endpoints[endpoint]
        return httpx.Client(base_url=url, verify=self.mesh.tls(), timeout=30)

    def bars(self, symbol: str, interval: str, client: httpx.Client | None = None) -> dict:
        """Return the API's bars of a symbol up to `end`, by start of window (s), page by page."""
        found: dict[str, dict[str, Any]] = {}
        first = self.trades[symbol][0][1] // 1_000_000 // 86_400 * 86_400
        query = {"interval": interval, "start_time": iso(first), "end_time": iso(self.end)}
        query |= {"page_size": "70"}
        while True:
            path = f"/v1/instruments/{self.instruments[symbol]}/bars"
            page = get(client or self.rest, path, **query)
            for bar in page["bars"]:
                assert bar["startTime"] not in found, "a bar on two pages"
                found[bar["startTime"]] = bar
            if not page["nextPageToken"]:
                return found
            query["page_token"] = page["nextPageToken"]

    def last_trade(self, symbol: str) -> int:
        """Return the id of the exchange's newest trade."""
        return int(get(self.admin, f"/admin/market/{symbol}")["lastTradeId"])

    def close(self) -> None:
        for client in (self.rest, self.exchange, self.admin):
            client.close()


def iso(seconds: int) -> str:
    """Return seconds since the epoch in the API's format."""
    import datetime

    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def get(client: httpx.Client, path: str, **query: str) -> dict[str, Any]:
    """Return the JSON of a response that must be 200."""
    response = client.get(path, params=query)
    assert response.status_code == 200, f"{response.url}: {response.text}"
    return response.json()


@pytest.fixture(scope="session")
def call() -> Any:
    """Return `call(client, path, **query)`: the JSON of a response that must be 200."""
    return get


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """Return the independent computation of bars."""
    import reference_bars

    return reference_bars


@pytest.fixture(scope="session")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the recorded capture, if there is one, and a generated one."""
    made = tmp_path_factory.mktemp("captures") / "generated.gz"
    import generated_capture

    generated_capture.make_capture(
        made, start_ns=GENERATED_START_NS, seconds=GENERATED_SECONDS, seed=1
    )
    found = {"generated": made}
    folder = caller_environment().get("COINMESH_RECORDED") or CHECKOUT / "../shared/recorded"
    for path in sorted(Path(folder, "binance").glob("*.gz")):
        found.setdefault("recorded", path.resolve())
    return found


@pytest.fixture(scope="session")
def end_to_end(workspace: Workspace) -> Iterator[TestMesh]:
    """Yield a separate complete mesh, with two gateways."""
    environment = {
        "COINMESH_SIM_TIME": "kept",
        "COINMESH_SIM_SPEED": str(SPEED),
        "COINMESH_SIM_RATE": "2",
        "COINMESH_BINANCE_SYMBOLS": "*",
        "COINMESH_SPARK_ARCHIVE_TRIGGER": "5",
        "COINMESH_TRACE_SAMPLING_RATIO": "0.2",
        "COINMESH_PROMETHEUS_SCRAPE_INTERVAL": "2s",
        "COINMESH_COMPONENTS_INTERVAL_SECONDS": "5",
    }
    options = Options(ports="free", gateways=2, profile="full")
    workspace.close_meshes()  # this mesh needs the whole machine
    with workspace.mesh("e2e", options, environment) as mesh:
        yield mesh


# The recorded capture is older: the event time of played captures increases.
@pytest.fixture(scope="session", params=["recorded", "generated"])
def run(
    request: pytest.FixtureRequest,
    end_to_end: TestMesh,
    captures: dict[str, Path],
    reference: ModuleType,
) -> Iterator[Run]:
    """Yield the mesh after it has played a capture and continued with the generated market."""
    capture = captures.get(request.param)
    if capture is None:
        pytest.skip("no recorded capture; COINMESH_RECORDED names the folder that holds them")
    begin = play(end_to_end, capture)
    is_last = request.param == "generated"
    played = Run(end_to_end, capture, reference, reference.trades_of(capture), is_last)
    eventually(lambda: market_time(played) > played.end + 20, "the capture has been played")
    played.played = (begin, time.time_ns() // 1000 + RECORDING_LAG)
    listed = get(played.exchange, "/api/v3/exchangeInfo")["symbols"]
    played.instruments = {
        each["symbol"]: f"binance.{each['baseAsset']}-{each['quoteAsset']}" for each in listed
    }
    # Twenty times the market's rate would take CPU time from every following test.
    played.admin.post("/admin/speed", json={"speed": 1}).raise_for_status()
    yield played
    played.close()


@pytest.fixture(scope="session")
def last_run(run: Run) -> Run:
    """Return the mesh with the last capture, for tests that run once."""
    if not run.is_last:
        pytest.skip("asked once, with the last capture")
    return run


def play(mesh: TestMesh, capture: Path) -> int:
    """Play a capture from its beginning, with a collector without state.

    Returns:
        The start of the collector's session, wall-clock µs since the epoch.
    """
    mesh.environment["COINMESH_SIM_CAPTURE"] = str(capture)
    components = ("collector-binance", "sim-exchange")
    started = mesh.home.data.joinpath("sim-exchange").exists()
    if started:
        for name in components:
            mesh.component(name).stop()
        shutil.rmtree(mesh.home.data / "sim-exchange")
        begin = time.time_ns() // 1000
        for name in reversed(components):
            mesh.component(name).start()
    else:
        begin = time.time_ns() // 1000
        # All consumers of the collector's output start before its first trade.
        mesh.require("spark-stream", "envoy", "sim-exchange", "collector-binance")
    return begin


def market_time(run: Run) -> float:
    """Return the exchange's time (s) once the generated market is active, else 0."""
    status = get(run.admin, "/admin/status")
    return status["marketTime"] / 1e6 if status["phase"] == "generated" else 0
