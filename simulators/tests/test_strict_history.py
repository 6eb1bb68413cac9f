"""What the real history and listings do that a kind simulator would not: a test for each case."""

import itertools
import json

import pytest

from coinmesh_simulators.exchange.freshness import DatabaseView


def test_database_shows_what_was_made_a_while_ago():
    now = 100.0
    view = DatabaseView(7, lambda: now)
    assert view.last_id(1.0) == 7
    for at, last in ((100.0, 8), (100.01, 9), (100.5, 10), (102.0, 12)):
        now = at
        view.note(last)
    assert [view.last_id(lag) for lag in (0.0, 1.0, 1.6, 2.5)] == [12, 10, 9, 7]
    now = 300.0
    view.note(13)
    assert view.last_id(60.0) == 12


@pytest.mark.parametrize("route", ["historicalTrades", "aggTrades"])
async def test_history_lags_behind_the_stream(local, route):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=60)
    async with sim.connect("/ws/btcusdt@trade") as ws:
        first = (await ws.receive_json())["t"]
        for _ in range(100):
            await ws.receive_json()
    assert await sim.json(route, symbol="BTCUSDT", fromId=first if "his" in route else 1) == []
    assert (await sim.json("trades", symbol="BTCUSDT", limit=1))[0]["id"] >= first + 100


async def test_history_lag_fault_ends_with_its_count(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 10:
        await sim.status()
    await sim.fault(kind="history_lag", symbol="BTCUSDT", delay_ms=60_000, count=1)
    assert await sim.json("historicalTrades", symbol="BTCUSDT", fromId=1) == []
    assert (await sim.json("historicalTrades", symbol="BTCUSDT", fromId=1))[0]["id"] == 1


async def test_id_below_the_floor_returns_later_ids_with_200(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 60:
        await sim.status()
    await sim.fault(kind="history_floor", symbol="BTCUSDT", floor_id=40)
    for route, name, number in (("historicalTrades", "id", 40), ("aggTrades", "a", 40)):
        rows = await sim.json(route, symbol="BTCUSDT", fromId=1, limit=5)
        assert rows[0][name] == number
    rows = await sim.json("historicalTrades", symbol="BTCUSDT", fromId=50, limit=1)
    assert rows[0]["id"] == 50


async def test_trades_beyond_the_history_are_gone_at_once(local):
    sim = await local(symbols="BTCUSDT", rate=2_000, speed=20, history=1_000, database_lag=0)
    while (last := (await sim.truth("BTCUSDT"))["lastTradeId"]) < 1_500:
        pass
    trades = await sim.json("historicalTrades", symbol="BTCUSDT", fromId=1, limit=5)
    assert trades[0]["id"] > last - 1_000
    for query in ({"fromId": 1}, {"startTime": 0}):
        rows = await sim.json("aggTrades", symbol="BTCUSDT", limit=5, **query)
        assert len(rows) == 5
        assert rows[0]["f"] > last - 1_000
        assert all(one["l"] + 1 == next_["f"] for one, next_ in itertools.pairwise(rows))


async def test_history_faults_choose_requests_by_host(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 60:
        await sim.status()
    await sim.fault(kind="history_floor", host="api1.*", floor_id=40)
    first = {}
    for host in ("api-gcp", "api1"):
        url = f"{sim.base}/{host}.binance.com/api/v3/historicalTrades"
        status = 0
        while status != 200:  # api1 fails at times
            async with sim.session.get(url, params={"symbol": "BTCUSDT", "fromId": 1}) as response:
                status, body = response.status, await response.text()
        first[host] = json.loads(body)[0]["id"]
    assert first == {"api-gcp": 1, "api1": 40}


async def test_klines_lag_like_the_trades_of_the_database(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 60:
        await sim.status()
    for interval in ("1s", "1m", "1h"):
        query = {"symbol": "BTCUSDT", "interval": interval}
        await sim.fault(kind="history_lag", symbol="BTCUSDT", delay_ms=60_000, count=1)
        lagging = await sim.json("klines", **query)
        assert {row[8] for row in lagging} == {0}
        assert sum(row[8] for row in await sim.json("klines", **query)) >= 60


async def test_void_aggregate_row_has_no_trades(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 30:
        await sim.status()
    await sim.fault(kind="void_aggregate", symbol="BTCUSDT", count=1)
    rows = await sim.json("aggTrades", symbol="BTCUSDT", fromId=1, limit=5)
    void = [row for row in rows if row["f"] == -1]
    assert [(row["p"], row["q"], row["l"]) for row in void] == [("0", "0", -1)]


async def test_end_time_alone_returns_the_newest_up_to_it(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 60:
        await sim.status()
    rows = await sim.json("aggTrades", symbol="BTCUSDT", fromId=1, limit=20)
    end = rows[-1]["T"]
    newest = await sim.json("aggTrades", symbol="BTCUSDT", endTime=end, limit=5)
    assert newest[-1]["T"] == end
    assert len(newest) == 5


@pytest.mark.parametrize("status", ["HALT", "BREAK", "CANCEL_ONLY", "END_OF_DAY"])
async def test_halted_symbol_is_listed_and_its_streams_are_silent(local, status):
    sim = await local(symbols="BTCUSDT,ETHUSDT", rate=1_000, deep_levels=0)
    async with sim.connect("/stream?streams=btcusdt@trade/ethusdt@trade") as ws:
        assert (await sim.listing("ETHUSDT", status=status))["status"] == status
        last = (await sim.truth("ETHUSDT"))["lastTradeId"]
        for _ in range(100):
            frame = (await ws.receive_json())["data"]
            assert frame["s"] == "BTCUSDT" or frame["t"] <= last
        info = await sim.json("exchangeInfo")
        assert [entry["status"] for entry in info["symbols"]] == ["TRADING", status]
        trading = await sim.json("exchangeInfo", symbolStatus="TRADING")
        assert [entry["symbol"] for entry in trading["symbols"]] == ["BTCUSDT"]
        assert (await sim.get("depth", symbol="ETHUSDT"))[0] == 200
        await sim.listing("ETHUSDT", status="TRADING")
        while (await ws.receive_json())["data"]["s"] != "ETHUSDT":
            pass


async def test_delisted_symbol_is_gone_after_a_restart_too(local, tmp_path):
    sim = await local(symbols="BTCUSDT,ETHUSDT", rate=1_000, deep_levels=0)
    async with sim.connect("/stream?streams=btcusdt@trade/ethusdt@trade") as ws:
        await sim.listing("ETHUSDT", action="delist")
        status, body, _ = await sim.get("depth", symbol="ETHUSDT")
        assert (status, body["code"]) == (400, -1121)
        quiet = 0  # frames that left before may still be on their way
        while quiet < 100:
            frame = await ws.receive_json()
            quiet = quiet + 1 if frame["data"]["s"] == "BTCUSDT" else 0
    await sim.end(15)
    again = await local(
        symbols="BTCUSDT,ETHUSDT", rate=0, state_dir=tmp_path / "state0", deep_levels=0
    )
    assert (await again.status())["symbols"] == ["BTCUSDT"]
    await again.listing("ETHUSDT", action="list")
    assert (await again.status())["symbols"] == ["BTCUSDT", "ETHUSDT"]


async def test_symbol_that_starts_over_counts_from_1_again(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, deep_levels=0, database_lag=0)
    async with sim.connect("/ws/btcusdt@trade") as ws:
        while (await ws.receive_json())["t"] < 20:
            pass
        await sim.listing("BTCUSDT", action="start_over")
        while (await ws.receive_json())["t"] != 1:
            pass
        assert (await ws.receive_json())["t"] == 2
    assert (await sim.json("historicalTrades", symbol="BTCUSDT", fromId=1))[0]["id"] == 1


async def test_impossible_listing_changes_are_explained(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0)
    url = f"{sim.admin}/admin/market"
    for symbol, body, status in (
        ("NOPE", {"status": "HALT"}, 409),
        ("BTCUSDT", {"action": "list"}, 409),
        ("BTCUSDT", {"status": "NOPE"}, 400),
        ("BTCUSDT", {}, 400),
    ):
        async with sim.session.post(f"{url}/{symbol}", json=body) as response:
            assert response.status == status
            assert "error" in await response.json()


async def test_amounts_of_fine_symbols_have_eight_decimals(local):
    sim = await local(symbols="ETHBTC", rate=1_000, speed=50, deep_levels=0, database_lag=0)
    while (await sim.truth("ETHBTC"))["trades"] < 300:
        await sim.status()
    rows = await sim.json("klines", symbol="ETHBTC", interval="1s", limit=1000)
    trades = await sim.json("historicalTrades", symbol="ETHBTC", fromId=1, limit=1000)
    amounts = [row[place] for row in rows for place in (7, 10)]
    amounts += [trade["quoteQty"] for trade in trades]
    async with sim.connect("/ws/ethbtc@kline_1s") as ws:
        kline = (await ws.receive_json())["k"]
    amounts += [kline["q"], kline["Q"]]
    assert {len(amount.partition(".")[2]) for amount in amounts} == {8}
