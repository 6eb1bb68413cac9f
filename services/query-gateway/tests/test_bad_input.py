"""Bad input to the gateway is refused with a reason, and odd input is answered."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from market_data import bar_row
from stack import MINUTE_MS, NOW_MS, Feeder, Gateway, failure, list_bars, stamp

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.query.v1.event_service_pb2 import StreamEventsRequest

pytestmark = pytest.mark.component


INVALID = "INVALID_ARGUMENT"
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("GetTicker", {"instrument": "binance.BTCUSD"}, "NOT_FOUND", "UNKNOWN_INSTRUMENT"),
    ("GetTicker", {"instrument": ""}, INVALID, "MISSING_INSTRUMENT"),
    ("ListBars", {"interval": "1w"}, INVALID, "UNKNOWN_INTERVAL"),
    ("ListBars", {"interval": ""}, INVALID, "UNKNOWN_INTERVAL"),
    ("ListBars", {"start_time": stamp(2), "end_time": stamp(1)}, INVALID, "INVERTED_RANGE"),
    ("ListBars", {"start_time": Timestamp(seconds=10**15)}, INVALID, "BAD_TIME"),
    ("ListBars", {"page_size": -1}, INVALID, "NEGATIVE_SIZE"),
    ("ListBars", {"page_token": "garbage"}, INVALID, "BAD_PAGE_TOKEN"),
    ("ViewBars", {"page_size": 5001}, INVALID, "TOO_LARGE"),
    ("ListIndicators", {"interval": "15m"}, INVALID, "UNKNOWN_INTERVAL"),
    ("ListIndicators", {"indicator": "macd"}, INVALID, "UNKNOWN_INDICATOR"),
    ("GetBook", {"depth": 1001}, INVALID, "TOO_LARGE"),
    ("GetBook", {"depth": 5}, "UNAVAILABLE", "BOOK_NOT_READY"),
    ("GetLeaderboard", {"leaderboard": "best"}, INVALID, "UNKNOWN_LEADERBOARD"),
    ("StreamMarket", {}, INVALID, "MISSING_INSTRUMENT"),
    ("StreamMarket", {"instruments": ["x.Y"]}, "NOT_FOUND", "UNKNOWN_INSTRUMENT"),
    ("StreamEvents", {"topic": "secrets"}, INVALID, "UNKNOWN_TOPIC"),
    ("StreamEvents", {"topic": "market.trades.v1", "last": 10**6}, INVALID, "TOO_LARGE"),
]


@pytest.mark.parametrize(("method", "fields", "code", "reason"), BAD)
def test_bad_input_is_told_clearly(
    gateway: Gateway, method: str, fields: dict[str, Any], code: str, reason: str
) -> None:
    events = method == "StreamEvents"
    kind = StreamEventsRequest if events else getattr(api, f"{method}Request")
    usual = {"instrument": "binance.ETH-USDT", "interval": "1m"}
    given = {k: v for k, v in (usual | fields).items() if k in kind.DESCRIPTOR.fields_by_name}
    stub = gateway.events if events else gateway.market
    found = failure(lambda: getattr(stub, method)(kind(**given), timeout=120))
    assert found[:2] == (code, reason)
    assert (found[2] is not None) == (code == "UNAVAILABLE")


def test_a_token_goes_with_its_listing_only(gateway: Gateway, feeder: Feeder, name: str) -> None:
    feeder.store_bars(name, "1m", [bar_row(NOW_MS + n * MINUTE_MS, name=name) for n in range(3)])
    token = list_bars(gateway, name, page_size=1).next_page_token
    assert list_bars(gateway, name, page_size=2, page_token=token).bars
    for changed in ({"interval": "5m"}, {"start_time": stamp(5)}):
        wrong = failure(lambda c=changed: list_bars(gateway, name, page_token=token, **c))
        assert wrong[:2] == ("INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
    other = api.ListTradesRequest(instrument=name, page_token=token)
    assert failure(lambda: gateway.market.ListTrades(other))[1] == "BAD_PAGE_TOKEN"


def test_a_range_of_thousands_of_years_is_answered(
    gateway: Gateway, feeder: Feeder, name: str
) -> None:
    starts = [NOW_MS, NOW_MS + 1000]
    feeder.store_bars(name, "1s", [bar_row(start, "1s", name=name) for start in starts])
    for interval in ("1d", "1h"):
        feeder.store_bars(name, interval, [bar_row(NOW_MS, interval, name=name)])
    times = {
        "start_time": Timestamp(seconds=-62135596800),
        "end_time": Timestamp(seconds=253402300799),
    }
    first = list_bars(gateway, name, interval="1s", page_size=1, **times)
    second = list_bars(
        gateway, name, interval="1s", page_size=1, page_token=first.next_page_token, **times
    )
    found = [bar.start_time.ToMilliseconds() for bar in (*first.bars, *second.bars)]
    assert found == starts
    request = api.ViewBarsRequest(instrument=name, interval="1s", **times)
    assert orjson.loads(gateway.market.ViewBars(request).data)["startTime"] == starts
