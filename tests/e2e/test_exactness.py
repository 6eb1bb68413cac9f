"""What REST serves equals, digit for digit, what a plain script computes from the capture."""

from typing import Any

import pytest

from coinmesh_local.testing import eventually
from meshkit.authz import User, stated

pytestmark = pytest.mark.e2e

SECONDS = {"1s": 1, "1m": 60, "5m": 300}
FIGURES = "open high low close volume quoteVolume vwap tradeCount".split()


def expected(run: Any, symbol: str, interval: str) -> dict[str, dict[str, Any]]:
    """The reference's bars of the windows that end no later than `run.end`."""
    seconds = SECONDS[interval]
    bars = run.reference.bars_of(run.trades[symbol], seconds)
    return {time_text(start): bar for start, bar in bars.items() if start + seconds <= run.end}


def time_text(seconds: int) -> str:
    import datetime

    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def figures(bars: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {start: {name: bar[name] for name in FIGURES} for start, bar in bars.items()}


def closed(run: Any, symbol: str, interval: str) -> dict[str, dict[str, Any]]:
    """The API's bars once all windows of the capture are closed."""
    wanted = expected(run, symbol, interval)

    def read() -> dict[str, dict[str, Any]] | None:
        bars = run.bars(symbol, interval)
        return bars if all(bars.get(start, {}).get("final") for start in wanted) else None

    return eventually(read, f"the {interval} bars of {symbol} are closed")


@pytest.mark.parametrize("interval", ["1m", "1s", "5m"])
def test_bars_equal_those_of_the_plain_script(run: Any, interval: str) -> None:
    for symbol in run.trades:
        wanted = expected(run, symbol, interval)
        found = closed(run, symbol, interval)
        found = {start: bar for start, bar in found.items() if start <= max(wanted)}
        assert figures(found) == wanted, symbol


def test_no_trade_is_missing_or_counted_twice(run: Any) -> None:
    for symbol, trades in run.trades.items():
        bars = closed(run, symbol, "1m")
        assert sum(bar["tradeCount"] for bar in bars.values()) == len(trades)
        ids = [
            int(bar["provenance"][end])
            for bar in bars.values()
            for end in ("firstTradeId", "lastTradeId")
        ]
        assert (min(ids), max(ids)) == (trades[0][0], trades[-1][0])
        for bar in bars.values():
            assert bar["revision"] == 2 * bar["tradeCount"] + 1
            assert bar["provenance"]["layer"] == "LAYER_STREAM"


def test_the_columns_for_charts_are_the_same_bars(run: Any, call: Any) -> None:
    for symbol, instrument in run.instruments.items():
        bars = closed(run, symbol, "1m")
        query = {"interval": "1m", "start_time": min(bars), "end_time": time_text(run.end)}
        view = call(run.rest, f"/v1/instruments/{instrument}/bars:view", **query)
        for name in ("open", "high", "low", "close", "volume"):
            assert view[name] == [bar[name] for bar in bars.values()]
        assert [time_text(ms // 1000) for ms in view["startTime"]] == list(bars)


def test_a_multiple_of_an_interval_is_made_of_it(run: Any, call: Any) -> None:
    for symbol, instrument in run.instruments.items():
        minutes = closed(run, symbol, "1m")
        wanted = run.reference.bars_of(run.trades[symbol], 120)
        query = {"interval": "2m", "end_time": time_text(run.end // 120 * 120)}
        bars = call(run.rest, f"/v1/instruments/{instrument}/bars", **query)["bars"]
        assert minutes
        whole = {time_text(s): bar for s, bar in wanted.items() if s + 120 <= run.end}
        found = {bar["startTime"]: bar for bar in bars if bar["startTime"] in whole}
        assert figures(found) == whole


def test_the_collector_knows_of_no_open_gap(run: Any, call: Any) -> None:
    status = call(run.rest, "/v1/collectors/binance/status")
    assert status["openGaps"] == 0
    assert {stream["instrument"] for stream in status["streams"]} == set(run.instruments.values())


VIEWER = User("test", ("viewer",), "free")


def test_both_gateways_answer_alike(run: Any) -> None:
    import grpc

    from coinmesh_contracts.market.v1 import market_service_pb2, market_service_pb2_grpc

    addresses = run.mesh.endpoints["query-gateway"].split(",")
    assert len(addresses) == 2
    for symbol, instrument in run.instruments.items():
        closed(run, symbol, "1m")
        request = market_service_pb2.ListBarsRequest(
            instrument=instrument, interval="1m", page_size=1000
        )
        request.end_time.FromSeconds(run.end)
        replies = []
        for address in addresses:
            with grpc.secure_channel(address, run.mesh.grpc_credentials("envoy")) as channel:
                stub = market_service_pb2_grpc.MarketServiceStub(channel)
                replies.append(stub.ListBars(request, metadata=stated(VIEWER)))
        assert replies[0] == replies[1]
        assert len(replies[0].bars) >= 3
