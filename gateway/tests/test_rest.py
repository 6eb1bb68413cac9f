"""REST through Envoy: every path of the contracts, golden."""

import json
from pathlib import Path
from typing import Any

import pytest

from coinmesh_contracts.sources import descriptor_set
from coinmesh_gateway.bindings import bindings
from coinmesh_gateway.catalogue import declared, servers

pytestmark = pytest.mark.component

I = "/v1/instruments"  # noqa: E741
C = "/v1/collectors"
NAME = "binance.BTC-USDT-PERP"
TICKER = dict.fromkeys(
    "lastPrice lastSize bidPrice bidSize askPrice askSize changePercent24h volume24h "
    "quoteVolume24h".split(),
    "",
)
INSTRUMENT = dict.fromkeys(
    "venue symbol baseAsset quoteAsset tickSize lotSize minNotional status".split(), ""
)
SESSION = {"user": "", "roles": [], "tier": "", "token": "", "csrfToken": ""}
BAR = {
    "startTime": "2024-08-08T23:54:00Z",
    "open": "61837.63000000",
    "high": "",
    "low": "",
    "close": "61837.64000000",
    "volume": "0.02000000",
    "quoteVolume": "",
    "vwap": "",
    "tradeCount": 0,
    "takerBuyVolume": "",
    "takerBuyQuoteVolume": "",
    "final": False,
    "revision": 0,
    "provenance": {
        "layer": "LAYER_STREAM",
        "publication": 0,
        "run": "r" * 40,
        "firstTradeId": "0",
        "lastTradeId": "3735683259",
    },
}
VALUE = {"indicator": "sma", "period": 20, "output": "", "value": ""}
TRADE = {
    "tradeId": "3735683259",
    "eventTime": "2024-08-08T23:54:15.342Z",
    "price": "1.50",
    "size": "",
    "takerSide": "",
}
STREAMED = {
    "batch": {
        "events": [
            {
                "instrument": "a",
                "trade": {"tradeId": "1", "price": "1.0", "size": "", "takerSide": ""},
            }
        ]
    },
    "resumeToken": "t",
}
BACKFILL = {
    "@type": "type.googleapis.com/coinmesh.collector.v1.BackfillMetadata",
    "nextId": "5",
    "published": "0",
}
STATUS = {
    "collector": "binance",
    "connections": [],
    "streams": [],
    "usedWeight": 0,
    "weightLimit": 6000,
    "openGaps": 0,
}
# RPC → method and path, body, reply.
GOLDEN: dict[str, tuple[str, Any, Any]] = {
    "ListInstruments": (
        f"GET {I}?page_size=5&page_token=x",
        None,
        {"instruments": [{"name": "binance.BTC-USDT", **INSTRUMENT, "venue": "1"}]}
        | {"nextPageToken": ""},
    ),
    "GetInstrument": (f"GET {I}/{NAME}", None, {"name": NAME, **INSTRUMENT}),
    "GetTicker": (
        f"GET {I}/{NAME}/ticker",
        None,
        {
            "instrument": NAME,
            **TICKER,
            "tradeCount24h": 0,
            "eventTime": TRADE["eventTime"],
            "stale": False,
        },
    ),
    "ListTickers": ("GET /v1/tickers?page_size=7", None, {"tickers": [], "nextPageToken": "7"}),
    "ListBars": (
        f"GET {I}/{NAME}/bars?interval=1m&page_size=1",
        None,
        {"bars": [BAR], "nextPageToken": ""},
    ),
    "ViewBars": (
        f"GET {I}/{NAME}/bars:view?interval=1m&page_size=1",
        None,
        {"instrument": NAME, "close": ["61837.64000000"]},
    ),
    "ListTrades": (f"GET {I}/{NAME}/trades", None, {"trades": [TRADE], "nextPageToken": ""}),
    "GetBook": (
        f"GET {I}/{NAME}/book?depth=1",
        None,
        {
            "instrument": NAME,
            "lastUpdateId": "9223372036854775808",
            "bids": [{"price": "0.00001234", "size": "1.00"}],
            "asks": [],
            "stale": False,
        },
    ),
    "ListIndicators": (
        f"GET {I}/{NAME}/indicators?interval=1m&indicator=sma",
        None,
        {"indicators": [VALUE], "nextPageToken": ""},
    ),
    "GetLeaderboard": (
        "GET /v1/leaderboards/gainers?page_size=3",
        None,
        {"name": "gainers", "entries": []},
    ),
    "StreamMarket": ("GET /v1/stream?instruments=a", None, STREAMED),
    "StreamEvents": (
        "GET /v1/events?topic=market.trades.v1&instrument=a&limit=0",
        None,
        None,
    ),
    "ListCollectors": (
        f"GET {C}",
        None,
        {"collectors": [{"name": "binance", "serving": False}]},
    ),
    "GetStatus": (f"GET {C}/binance/status", None, STATUS),
    "ListSubscriptions": (
        f"GET {C}/binance/subscriptions",
        None,
        {"subscriptions": [], "nextPageToken": ""},
    ),
    "AddSubscription": (
        f"POST {C}/binance/subscriptions",
        {"instrument": NAME},
        {"instrument": NAME, "channels": []},
    ),
    "RemoveSubscription": (f"DELETE {C}/binance/subscriptions/{NAME}", None, {}),
    "Backfill": (
        f"POST {C}/binance:backfill",
        {"instrument": NAME, "ids": {"first": "5", "last": "6"}},
        {"name": "backfills/1", "metadata": BACKFILL, "done": False},
    ),
    "GetBackfill": (
        f"GET {C}/binance/backfills/7",
        None,
        {"name": "backfills/7", "done": True},
    ),
    "RetryGap": (f"POST {C}/binance:retryGap", {"gapId": "g"}, {}),
    "Drain": (f"POST {C}/binance:drain", {}, {}),
    "CreateSession": ("POST /v1/session", {"apiKey": "k"}, {**SESSION, "token": "t"}),
    "GetSession": ("GET /v1/session", None, SESSION),
    "DeleteSession": ("DELETE /v1/session", None, {}),
}


def test_every_path_of_the_contracts_has_a_golden_reply() -> None:
    found = bindings(descriptor_set(), servers(declared(Path(__file__).parent / "tree")))
    assert {b.rpc.rpartition(".")[2] for b in found} == set(GOLDEN)


@pytest.mark.parametrize("rpc", GOLDEN)
def test_reply(envoy: Any, rpc: str) -> None:
    request, body, reply = GOLDEN[rpc]
    method, path = request.split(" ", 1)
    response = envoy.rest.request(method, path, json=body)
    assert response.status_code == 200, response.text
    assert (json.loads(response.text) if response.text else None) == reply
    if reply is not None:
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("binance.BTC-USDT-PERP", "binance.BTC-USDT-PERP"),
        ("binance.%E5%B8%81%E5%AE%89-USDT", "binance.币安-USDT"),
        ("binance.币安-USDT", "binance.币安-USDT"),
        ("binance.A%20B", "binance.A B"),
        ("binance.1%2F2", "binance.1/2"),
        ("binance.A+B", "binance.A+B"),
        ("a-b.c_d~e", "a-b.c_d~e"),
    ],
)
@pytest.mark.parametrize("rest", ["", "/bars:view", "/ticker"])
def test_names_arrive_as_they_are_meant(envoy: Any, written: str, name: str, rest: str) -> None:
    response = envoy.rest.get(f"{I}/{written}{rest}")
    assert response.json().get("instrument", response.json().get("name")) == name


@pytest.mark.parametrize(
    "query",
    [
        "start_time=2024-08-08T22:00:00.123Z&end_time=2024-08-09T00:00:00%2B02:00",
        "start_time=2024-08-08T22:00:00.123Z&end_time=2024-08-09T00:00:00+02:00",
        "startTime=2024-08-08T22:00:00.123Z&endTime=2024-08-08T22:00:00Z",
    ],
)
def test_times_are_rfc_3339(envoy: Any, query: str) -> None:
    envoy.rest.get(f"{I}/a/bars?interval=1m&page_size=1&{query}").raise_for_status()
    asked = envoy.backends["query-gateway"][0].double.asked[-1]
    assert asked.start_time.ToJsonString() == "2024-08-08T22:00:00.123Z"
    assert asked.end_time.ToJsonString() == "2024-08-08T22:00:00Z"


def test_a_repeated_parameter_is_a_list(envoy: Any) -> None:
    path = "/v1/stream?instruments=a&channels=trade&instruments=b&intervals=1m"
    envoy.rest.get(path).raise_for_status()
    asked = envoy.backends["query-gateway"][0].double.asked[-1]
    assert list(asked.instruments) == ["a", "b"]
    assert (list(asked.channels), list(asked.intervals)) == (["trade"], ["1m"])


def test_the_largest_pages_pass(envoy: Any) -> None:
    response = envoy.rest.get(f"{I}/a/bars?interval=1m&page_size=5000")
    bars = response.json()["bars"]
    assert len(response.content) > 1 << 20
    assert [each["tradeCount"] for each in bars] == list(range(5000))


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_large_replies_are_compressed(envoy: Any, coding: str) -> None:
    headers = {"accept-encoding": coding}
    with envoy.rest.stream("GET", f"{I}/a/bars?interval=1m&page_size=1000", headers=headers) as r:
        assert r.headers["content-encoding"] == coding
        assert sum(map(len, r.iter_raw())) < 100_000
    small = envoy.rest.get(f"{I}/a/bars?interval=1m&page_size=1", headers=headers)
    assert "content-encoding" not in small.headers


def test_envoy_is_healthy_by_itself(envoy: Any) -> None:
    assert envoy.rest.get("/healthz").status_code == 200


def test_the_services_headers_reach_the_caller(envoy: Any) -> None:
    response = envoy.rest.get(f"{I}/a/bars:view?end_time=2024-08-08T22:00:00Z")
    assert response.headers["cache-control"] == "public, max-age=60"
    assert response.headers["etag"] == '"7"'


def test_pages_of_this_machine_may_read_and_change(envoy: Any) -> None:
    origin = {"origin": "http://localhost:3000"}
    asks = {**origin, "access-control-request-method": "POST"}
    preflight = envoy.rest.options(f"{C}/binance:drain", headers=asks)
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for response in (
        preflight,
        envoy.rest.get(I, headers=origin),
        envoy.rest.post(f"{C}/binance:drain", json={}, headers=origin),
        envoy.rest.get(f"{I}/binance.UNKNOWN", headers=origin),
    ):
        assert response.headers["access-control-allow-origin"] == origin["origin"]


def test_pages_of_other_origins_may_not_read(envoy: Any) -> None:
    origin = {"origin": "http://localhost.evil.example", "access-control-request-method": "GET"}
    for response in (envoy.rest.get(I, headers=origin), envoy.rest.options(I, headers=origin)):
        assert "access-control-allow-origin" not in response.headers
