"""What the real REST side refuses, limits, delays and gets wrong: a test for each case.

Sources of the cases are named in the modules that implement them.
"""

import asyncio

import pytest
from aiohttp import ClientError, ClientPayloadError

from coinmesh_simulators.exchange.profiles import HOSTS

ROUTES = {
    "aggTrades": {"symbol": "BTCUSDT"},
    "depth": {"symbol": "BTCUSDT"},
    "exchangeInfo": {},
    "historicalTrades": {"symbol": "BTCUSDT"},
    "klines": {"symbol": "BTCUSDT", "interval": "1m"},
    "ping": {},
    "time": {},
    "trades": {"symbol": "BTCUSDT"},
    "uiKlines": {"symbol": "BTCUSDT", "interval": "1m"},
}
NOT_FOUND = "<html><body><h2>404 Not found</h2></body></html>"


@pytest.fixture
async def still(local):
    """An exchange where nothing happens."""
    return await local(symbols="BTCUSDT,ETHUSDT", rate=0, deep_levels=0)


async def raw(sim, path: str, **options) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of a GET, whatever its body is."""
    async with sim.session.get(sim.base + path, **options) as response:
        return response.status, await response.text(), dict(response.headers)


@pytest.mark.parametrize("host", HOSTS)
async def test_host_serves_only_its_documented_routes(still, host):
    statuses = {}
    for route, params in ROUTES.items():
        status, text, _ = await raw(still, f"/{host}/api/v3/{route}", params=params)
        statuses[route] = status if status < 500 else 200  # api1 to api4 fail now and then
        assert status != 404 or text == NOT_FOUND
    streams, _, _ = await raw(still, f"/{host}/stream")
    refused = {route for route, status in statuses.items() if status == 404}
    if "stream" in host:
        assert (refused, streams) == (set(ROUTES), 400)  # 400: not a WebSocket's handshake
    else:
        assert streams == 404
        expected = {"historicalTrades"} if host == "data-api.binance.vision" else set()
        assert refused == expected


async def test_host_header_selects_the_profile(still):
    headers = {"Host": "data-api.binance.vision:443"}
    path = "/api/v3/historicalTrades?symbol=BTCUSDT"
    assert (await raw(still, path, headers=headers))[0] == 404
    assert (await raw(still, path))[0] == 200


@pytest.mark.parametrize("path", ["/api/v1/depth", "/api/v3/nope", "/fapi/v1/ping", "/"])
async def test_unknown_path_returns_html(still, path):
    status, text, headers = await raw(still, path)
    assert (status, text) == (404, NOT_FOUND)
    assert headers["Content-Type"].startswith("text/html")


async def test_less_stable_hosts_fail_at_times(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0, backend_timeout=0.01)
    statuses = [(await raw(sim, "/api3.binance.com/api/v3/ping"))[0] for _ in range(400)]
    assert 0 < sum(status >= 500 for status in statuses) < 40
    assert set(statuses) <= {200, 500, 502, 503, 504}


async def test_limits_count_all_hosts_of_an_address(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0, weight_per_minute=55)
    hosts = ("data-api.binance.vision", "api.binance.com", "api-gcp.binance.com")
    statuses = [
        (await raw(sim, f"/{host}/api/v3/depth?symbol=BTCUSDT&limit=500"))[0] for host in hosts
    ]
    assert statuses in ([200, 200, 429], [200, 200, 200])  # a minute may end in between
    if statuses[-1] == 200:
        assert (await raw(sim, f"/{hosts[0]}/api/v3/depth?symbol=BTCUSDT&limit=5000"))[0] == 429


async def test_raw_requests_are_limited_too(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0, raw_requests_per_5m=5)
    answers = [await sim.get("ping") for _ in range(12)]
    refused = next(answer for answer in answers if answer[0] == 429)
    assert refused[1]["code"] == -1003
    assert 0 < int(refused[2]["Retry-After"]) <= 300


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("depth?symbol=btcusdt", -1100),
        ("depth?symbol=BTC%2FUSDT", -1100),
        ("depth?symbol=NOPE", -1121),
        ("depth?symbol=", -1105),
        ("depth?limit=5", -1102),
        ("depth?symbol=BTCUSDT&symbol=BTCUSDT", -1101),
        ("ping?symbol=BTCUSDT", -1101),
        ("trades?symbol=BTCUSDT&limit=1&fromId=1", -1101),
        ("depth?symbol=BTCUSDT&colour=1", -1104),
        ("klines?colour=1", -1102),
        ("aggTrades?symbol=BTCUSDT&limit=-1", -1100),
        ("aggTrades?symbol=BTCUSDT&fromId=99999999999999999999", -1108),
        ("aggTrades?symbol=BTCUSDT&fromId=1&endTime=1", -1128),
        ("klines?symbol=BTCUSDT&interval=1H", -1120),
        ("depth?symbol=BTCUSDT&symbolStatus=HALT", -1220),
        ("depth?symbol=BTCUSDT&symbolStatus=NOPE", -1122),
        ("exchangeInfo?symbols=[%22BTCUSDT%22,%22BTCUSDT%22]", -1151),
        ("exchangeInfo?symbols=BTCUSDT", -1100),
        ("exchangeInfo?symbol=BTCUSDT&symbolStatus=TRADING", -1128),
    ],
)
async def test_malformed_request_returns_its_code(still, query, code):
    status, body, _ = await still.get(f"{still.base}/api/v3/{query}")
    assert (status, body["code"]) == (400, code), body


async def test_invalid_time_unit_returns_its_code(still):
    headers = {"X-MBX-TIME-UNIT": "DAY"}
    async with still.session.get(f"{still.base}/api/v3/time", headers=headers) as response:
        assert (await response.json())["code"] == -1194


async def test_time_zone_moves_days_but_not_the_requested_times(local):
    sim = await local(symbols="BTCUSDT", rate=200, speed=100, database_lag=0)
    while not (await sim.truth("BTCUSDT"))["trades"]:
        await sim.status()
    hour = 3_600_000
    for zone, offset in (("8", 8 * hour), ("-1:00", -hour), ("05:45", 23 * hour // 4), ("0", 0)):
        query = {"symbol": "BTCUSDT", "interval": "1d", "timeZone": zone}
        (day,) = await sim.json("klines", limit=1, **query)
        assert (day[0] + offset) % (24 * hour) == 0
        assert day[6] - day[0] == 24 * hour - 1
        assert day[8] > 0
        assert (await sim.json("klines", startTime=day[0], endTime=day[0], **query))[0][0] == day[0]
    for zone in ("14:01", "-13", "8:60", "x", "Europe/Berlin"):
        _, body, _ = await sim.get("klines", symbol="BTCUSDT", interval="1d", timeZone=zone)
        assert body["code"] == -1130


async def test_filters_have_no_fixed_order_and_some_have_no_step(local):
    sim = await local(symbols="4", rate=0, deep_levels=0)
    info = await sim.json("exchangeInfo")
    orders = {tuple(f["filterType"] for f in entry["filters"]) for entry in info["symbols"]}
    assert len(orders) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1
    steps = {f.get("stepSize") for f in info["symbols"][0]["filters"]}
    assert "0.00000000" in steps


async def test_month_and_minute_intervals_differ_by_case(local):
    sim = await local(symbols="BTCUSDT", rate=200, speed=50)
    while not (await sim.truth("BTCUSDT"))["trades"]:
        await sim.status()
    bars = {
        interval: (await sim.json("klines", symbol="BTCUSDT", interval=interval, limit=1))[0]
        for interval in ("1m", "1M")
    }
    assert bars["1m"][6] - bars["1m"][0] == 59_999
    assert bars["1M"][6] - bars["1M"][0] > 27 * 86_400_000


async def test_sizes_above_the_most_are_cut_without_an_error(local):
    sim = await local(symbols="BTCUSDT", rate=200, speed=100, database_lag=0)
    while (await sim.truth("BTCUSDT"))["trades"] < 1_100:
        await sim.status()
    assert len(await sim.json("trades", symbol="BTCUSDT", limit=9_999)) == 1_000
    history = await sim.json("historicalTrades", symbol="BTCUSDT", fromId=1, limit=5_000)
    assert len(history) == 1_000
    for route, query in (("aggTrades", {"fromId": 1}), ("klines", {"interval": "1s"})):
        rows = await sim.json(route, symbol="BTCUSDT", limit=9_999, **query)
        assert len(rows) <= 1_000


async def test_book_is_deeper_than_any_snapshot(local):
    sim = await local(symbols="BTCUSDT", rate=0)
    book = await sim.json("depth", symbol="BTCUSDT", limit=99_999)
    assert [len(book[side]) for side in ("bids", "asks")] == [5_000, 5_000]
    truth = await sim.truth("BTCUSDT")
    assert min(truth["levels"]) > 5_000


async def test_firewall_refuses_queries_that_look_like_an_attack(still):
    status, text, _ = await raw(still, "/api/v3/depth?symbol=BTC%20union%20select%20x%20from%20y")
    assert status == 403
    assert "Request blocked" in text


async def test_going_on_after_429_ends_in_418_and_bars_streams(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0, weight_per_minute=1)
    answers = []
    while 418 not in answers:
        status, body, headers = await sim.get("exchangeInfo")
        answers.append(status)
    assert 429 in answers
    assert body["code"] == -1003
    assert "IP banned until" in body["msg"]
    assert 110 < int(headers["Retry-After"]) <= 121
    for path in (
        "/ws/btcusdt@trade",
        "/api/v1/depth",
        "/data-api.binance.vision/api/v3/historicalTrades",
        "/api/v3/depth?symbol=%3Cscript",
    ):
        status, _, headers = await raw(sim, path)
        assert (status, "Retry-After" in headers) == (418, True), path


@pytest.mark.parametrize(
    ("fault", "status", "kind", "text"),
    [
        ({"status": 403}, 403, "text/html", "The request could not be satisfied"),
        ({"status": 451}, 451, "application/json", '{"code":0,"msg":"Service unavailable from a'),
        ({"status": 500}, 500, "application/json", '"code":-1001'),
        ({"status": 502}, 502, "text/html", "<h1>502 Bad Gateway</h1>"),
        ({"status": 503}, 503, "application/json", '"code":-1008'),
        ({"status": 504}, 504, "application/json", '"code":-1007'),
        ({"status": 400, "code": -1121}, 400, "application/json", '"code":-1121'),
        ({"status": 503, "body": "text"}, 503, "text/plain", "503 Service Unavailable"),
        ({"status": 500, "body": "nested"}, 500, "application/json", '{"error":{"code":-1001'),
        ({"status": 500, "body": "html"}, 500, "text/html", "500 Internal Server Error"),
        ({"status": 500, "body": "empty"}, 500, "", ""),
    ],
)
async def test_status_fault_returns_the_body_asked_for(still, fault, status, kind, text):
    await still.fault(kind="status", path="*/depth", count=1, **fault)
    got, body, headers = await raw(still, "/api/v3/depth?symbol=BTCUSDT")
    assert (got, headers.get("Content-Type", "").partition(";")[0]) == (status, kind)
    assert text in body
    assert (body == "") == (fault.get("body") == "empty")
    assert (await raw(still, "/api/v3/depth?symbol=BTCUSDT"))[0] == 200


async def test_faults_choose_requests_by_host_and_symbol(still):
    await still.fault(kind="status", host="data-api.*", symbol="ETHUSDT")
    path = "/api/v3/depth?symbol="
    for host, symbol, status in (
        ("/data-api.binance.vision", "ETHUSDT", 503),
        ("/data-api.binance.vision", "BTCUSDT", 200),
        ("/api.binance.com", "ETHUSDT", 200),
    ):
        assert (await raw(still, host + path + symbol))[0] == status


@pytest.mark.parametrize(("kind", "status"), [("timeout", 504), ("slow", 200)])
async def test_late_answers_let_others_pass(still, kind, status):
    await still.fault(kind=kind, path="*/depth", count=1, delay_ms=300_000)
    late = asyncio.create_task(still.get("depth", symbol="BTCUSDT"))
    while not (await still.faults())[0]["applied"]:
        pass
    assert (await still.get("depth", symbol="BTCUSDT"))[0] == 200
    assert not late.done()
    late.cancel()
    await still.fault(kind=kind, path="*/depth", count=1, delay_ms=1)
    got, body, _ = await still.get("depth", symbol="BTCUSDT")
    assert got == status
    assert body.get("code") == (-1007 if kind == "timeout" else None)


async def test_reset_and_truncated_answers_are_errors_of_the_connection(still):
    await still.fault(kind="reset", path="*/depth", count=2)  # the client may repeat it once
    with pytest.raises(ClientError):
        await still.get("depth", symbol="BTCUSDT")
    await still.clear()
    await still.fault(kind="truncate", path="*/depth", count=1)
    with pytest.raises(ClientPayloadError):
        await still.get("depth", symbol="BTCUSDT", limit=5000)


async def test_half_a_body_and_an_empty_list_come_with_200(still):
    await still.fault(kind="half_body", path="*/depth", count=1)
    status, text, _ = await raw(still, "/api/v3/depth?symbol=BTCUSDT")
    assert status == 200
    assert text.startswith('{"lastUpdateId"')
    assert not text.endswith("}")
    await still.fault(kind="empty_list", path="*/historicalTrades", count=1)
    assert await still.json("historicalTrades", symbol="BTCUSDT") == []


async def test_permissive_mode_serves_everything_on_every_host(local):
    sim = await local(symbols="BTCUSDT", rate=0, deep_levels=0, permissive=True)
    path = "/data-api.binance.vision/api/v3/historicalTrades?symbol=BTCUSDT"
    assert (await raw(sim, path))[0] == 200
    assert (await raw(sim, "/api.binance.com/stream"))[0] == 400
