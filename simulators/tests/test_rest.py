"""The REST side: the market of the streams, with weights, limits and error codes."""

from decimal import Decimal

import pytest


@pytest.fixture
async def sim(local):
    """A market with some history, still going on."""
    one = await local(
        symbols="BTCUSDT,ETHUSDT", rate=200, speed=50, weight_per_minute=100_000, database_lag=0
    )
    while (await one.truth("BTCUSDT"))["trades"] < 1_500:
        await one.json("ping")
    return one


async def test_trades_can_be_walked_through_without_a_hole(sim):
    last = (await sim.truth("BTCUSDT"))["lastTradeId"]
    ids: list[int] = []
    while len(ids) < last:
        page = await sim.json("historicalTrades", symbol="BTCUSDT", fromId=len(ids) + 1, limit=1000)
        ids += [trade["id"] for trade in page]
    assert ids == list(range(1, len(ids) + 1))
    newest = await sim.json("trades", symbol="BTCUSDT", limit=5)
    assert newest[-1]["id"] >= last
    trade = newest[0]
    assert Decimal(trade["quoteQty"]) == Decimal(trade["price"]) * Decimal(trade["qty"])
    assert trade.keys() == {
        "id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch",
    }  # fmt: skip


async def test_klines_and_aggregates_agree_with_the_trades(sim):
    trades = []
    for first in (1, 501, 1001):
        trades += await sim.json("historicalTrades", symbol="BTCUSDT", fromId=first, limit=500)
    start = trades[0]["time"] // 60_000 * 60_000 + 60_000
    second = await sim.json(
        "klines", symbol="BTCUSDT", interval="1s", startTime=start - 59_000, limit=20
    )
    for bar in second[:3]:
        inside = [t for t in trades if bar[0] <= t["time"] <= bar[6]]
        assert bar[8] == len(inside)
        assert Decimal(bar[5]) == sum(Decimal(t["qty"]) for t in inside)
        assert Decimal(bar[7]) == sum(Decimal(t["quoteQty"]) for t in inside)
    groups = await sim.json("aggTrades", symbol="BTCUSDT", fromId=1, limit=200)
    assert [g["a"] for g in groups] == list(range(1, 201))
    by_id = {t["id"]: t for t in trades}
    for group in groups:
        rows = [by_id[i] for i in range(group["f"], group["l"] + 1)]
        assert Decimal(group["q"]) == sum(Decimal(row["qty"]) for row in rows)
        assert {row["time"] for row in rows} == {group["T"]}
    later = await sim.json("aggTrades", symbol="BTCUSDT", startTime=groups[100]["T"], limit=5)
    assert later[0]["T"] >= groups[100]["T"]
    assert len(later) == 5


async def test_longer_klines_are_sums_of_shorter_ones(sim):
    end = (await sim.json("klines", symbol="BTCUSDT", interval="1m", limit=1))[0][0] - 1
    minutes = await sim.json("klines", symbol="BTCUSDT", interval="1m", endTime=end)
    seconds = await sim.json("klines", symbol="BTCUSDT", interval="1s", limit=1000, endTime=end)
    wanted = [bar for bar in minutes if bar[0] > seconds[0][0]]
    for bar in wanted:
        inside = [one for one in seconds if bar[0] <= one[0] <= bar[6]]
        assert len(inside) == 60
        assert bar[8] == sum(one[8] for one in inside)
        for place in (5, 7, 9, 10):
            assert Decimal(bar[place]) == sum(Decimal(one[place]) for one in inside)
        assert Decimal(bar[2]) == max(Decimal(one[2]) for one in inside)


async def test_microseconds_are_given_on_request(sim):
    async with sim.session.get(
        f"{sim.base}/api/v3/klines",
        params={"symbol": "BTCUSDT", "interval": "1m", "limit": 1},
        headers={"X-MBX-TIME-UNIT": "MICROSECOND"},
    ) as response:
        bar = (await response.json())[0]
    assert bar[6] - bar[0] == 59_999_999
    assert bar[0] > 10**15


async def test_exchange_info_lists_instruments_and_limits(sim):
    info = await sim.json("exchangeInfo")
    assert [s["symbol"] for s in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert (info["symbols"][0]["baseAsset"], info["symbols"][0]["quoteAsset"]) == ("BTC", "USDT")
    limits = {limit["rateLimitType"]: limit["limit"] for limit in info["rateLimits"]}
    assert limits["REQUEST_WEIGHT"] == 100_000
    one = await sim.json("exchangeInfo", symbols='["ETHUSDT"]')
    assert [s["symbol"] for s in one["symbols"]] == ["ETHUSDT"]


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("depth", {}, -1102),
        ("depth", {"symbol": "NOPE"}, -1121),
        ("depth", {"symbol": "BTCUSDT", "limit": "x"}, -1100),
        ("depth", {"symbol": "BTCUSDT", "limit": 0}, -1130),
        ("depth", {"symbol": "BTCUSDT", "colour": 1}, -1104),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("aggTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, -1128),
        ("exchangeInfo", {"symbol": "NOPE"}, -1121),
    ],
)
async def test_errors_have_their_codes(local, path, params, code):
    sim = await local(symbols="BTCUSDT", rate=0)
    status, body, _ = await sim.get(path, **params)
    assert (status, body["code"]) == (400, code)
    assert body["msg"]


async def test_weights_are_charged_and_the_budget_ends_in_429_then_418(local):
    sim = await local(symbols="BTCUSDT", rate=0, weight_per_minute=1000)
    charged = 0
    for path, params, weight in (
        ("ping", {}, 1),
        ("exchangeInfo", {}, 20),
        ("depth", {"symbol": "BTCUSDT"}, 5),
        ("depth", {"symbol": "BTCUSDT", "limit": 500}, 25),
        ("depth", {"symbol": "BTCUSDT", "limit": 1000}, 50),
        ("depth", {"symbol": "BTCUSDT", "limit": 5000}, 250),
        ("historicalTrades", {"symbol": "BTCUSDT"}, 25),
        ("aggTrades", {"symbol": "BTCUSDT"}, 4),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m"}, 2),
    ):
        _, _, headers = await sim.get(path, **params)
        used = int(headers["X-MBX-USED-WEIGHT-1M"])
        assert used - charged == weight or used == weight  # a new minute may have begun
        charged = used
    statuses = []
    while 418 not in statuses:
        status, body, headers = await sim.get("depth", symbol="BTCUSDT", limit=5000)
        statuses.append(status)
    assert 429 in statuses
    assert body["code"] == -1003
    assert int(headers["Retry-After"]) > 60
