"""Requests against the exchange simulator, host by host."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fakes import Clock, collector_settings, rest_settings

from coinmesh_simulators.testing import LocalSimulator
from coinmesh_sources import rest
from collector_binance import streams
from collector_binance.catalogue import PATH, Catalogue
from collector_binance.collector import BinanceCollector
from collector_binance.core.commands import FetchSnapshot, FetchTrades
from collector_binance.exchange import HISTORY_PATH, request, rest_client
from collector_binance.settings import MARKET_DATA_HOST
from meshkit.metrics import Metrics
from meshkit.tracing import Tracing

DEPTH, TIME = "/api/v3/depth", "/api/v3/time"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_rest(monkeypatch)


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[LocalSimulator]:
    simulator = LocalSimulator(tmp_path / "exchange", {"symbols": "BTCUSDT", "rate": 0})
    await simulator.start()
    yield simulator
    await simulator.end(signal.SIGTERM)


@pytest.mark.parametrize(
    ("fault", "sleeps"),
    [
        ({"kind": "rate_limit", "retry_after_s": 9}, [0.25, 8.75]),
        ({"kind": "ban", "retry_after_s": 120}, [0.25, 119.75]),
        ({"kind": "status", "status": 403, "body": "html"}, [0.25, 59.75]),
        ({"kind": "status", "status": 451}, [0.25, 299.75]),
        ({"kind": "status", "status": 502}, [0.25]),
        # aiohttp repeats a GET once whose connection is reset before the answer.
        ({"kind": "reset", "count": 2}, [0.25]),
        ({"kind": "truncate"}, [0.25]),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
async def test_fault_of_the_exchange_is_survived(
    simulator: LocalSimulator, clock: Clock, fault: dict[str, Any], sleeps: list[float]
) -> None:
    await simulator.fault(**{"count": 1} | fault)
    async with rest_client(rest_settings(simulator.base), Metrics()) as client:
        answer = await client.get(DEPTH, {"symbol": "BTCUSDT", "limit": 100}, 5)
    assert answer.status == 200
    assert b'"lastUpdateId"' in answer.body
    assert clock.sleeps == pytest.approx(sleeps)


async def test_every_request_is_served_by_its_default_host(simulator: LocalSimulator) -> None:
    """The simulator serves below each documented host's name what that host serves."""
    defaults = collector_settings()
    hosts = [urlsplit(url).hostname for url in (defaults.binance_rest_url, defaults.history_url)]
    rest_url, history_url = (f"{simulator.base}/{host}" for host in hosts)
    chosen = rest_settings(rest_url, binance_history_url=history_url)
    statuses: dict[str, int] = {}

    async with rest_client(chosen, Metrics()) as client:
        get = client.get

        async def recorded(path: str, arguments: rest.Arguments, cost: int) -> rest.Answer:
            answer = await get(path, arguments, cost)
            statuses[path] = answer.status
            return answer

        client.get = recorded  # type: ignore[method-assign]
        await Catalogue(client).refresh()
        for command in (FetchSnapshot("BTCUSDT", urgent=True), FetchTrades("BTCUSDT", 1, 10)):
            sent = request(command, chosen.binance_snapshot_limit)
            await client.get(sent.path, sent.arguments, sent.cost)
        collector = BinanceCollector(chosen, Tracing(chosen))
        collector.register(Metrics())
        collector.rest = client
        measuring = asyncio.create_task(collector._measure_clock())
        while TIME not in statuses:  # noqa: ASYNC110 (nothing notifies)
            await asyncio.sleep(0.01)
        measuring.cancel()
        await asyncio.wait({measuring})
    assert statuses == dict.fromkeys((PATH, DEPTH, HISTORY_PATH, TIME), 200)


async def test_history_is_not_served_by_the_host_of_market_data(simulator: LocalSimulator) -> None:
    url = f"{simulator.base}/{MARKET_DATA_HOST}"
    async with rest_client(rest_settings(url), Metrics()) as client:
        answer = await client.get(HISTORY_PATH, {"symbol": "BTCUSDT"}, 25)
    assert answer.status >= 400


def test_no_other_path_is_requested() -> None:
    """A new request belongs into the test of the default hosts."""
    source = Path(streams.__file__).parent
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    assert set(re.findall(r'"(/api/v3/\w+)"', text)) == {PATH, DEPTH, HISTORY_PATH, TIME}
