"""What the gateway lists, on real Kafka, registry, Cassandra and Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from market_data import bar, bar_row, indicator, quote, trade
from stack import MINUTE_MS, NOW_MS, Feeder, Gateway, list_bars, stamp, wait

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.query.v1.collector_directory_service_pb2 import ListCollectorsRequest
from coinmesh_contracts.query.v1.event_service_pb2 import StreamEventsRequest
from coinmesh_local.testing import TestMesh
from query_gateway import trades

pytestmark = pytest.mark.component


def test_an_instruments_definition_is_exact(gateway: Gateway) -> None:
    found = gateway.market.GetInstrument(api.GetInstrumentRequest(instrument="binance.BTC-USDT"))
    assert MessageToDict(found) == {
        "name": "binance.BTC-USDT",
        "venue": "binance",
        "symbol": "BTCUSDT",
        "baseAsset": "BTC",
        "quoteAsset": "USDT",
        "tickSize": "0.01000000",
        "lotSize": "0.00001000",
        "minNotional": "5.00000000",
        "status": "TRADING",
    }


def test_a_ticker_follows_trades_quotes_and_bars(
    gateway: Gateway, feeder: Feeder, name: str
) -> None:
    feeder.send(trade(1, NOW_MS * 1000, name), quote(5, name), quote(4, name, bid=1))
    feeder.send(bar(NOW_MS, name=name, trades=4), bar(NOW_MS, name=name, trades=2))
    ticker = wait(
        lambda: gateway.market.GetTicker(api.GetTickerRequest(instrument=name)),
        lambda t: bool(t.last_price and t.bid_price and t.trade_count_24h == 4),
    )
    assert (ticker.last_price, ticker.last_size) == ("60000.01000000", "0.00100001")
    assert (ticker.bid_price, ticker.ask_size) == ("60000.00000000", "2.50000000")
    assert ticker.volume_24h == "0.00400000"
    assert ticker.event_time == stamp(NOW_MS)


def test_bars_are_stored_ones_and_live_ones_by_the_highest_revision(
    gateway: Gateway, feeder: Feeder, name: str
) -> None:
    starts = [NOW_MS + n * MINUTE_MS for n in range(5)]
    rows = [bar_row(start, name=name, trades=n + 1) for n, start in enumerate(starts[:4])]
    feeder.store_bars(name, "1m", rows)
    feeder.send(
        bar(starts[3], name=name, trades=9),  # newer than the stored one
        bar(starts[2], name=name, trades=1),  # older
        bar(starts[4], name=name, trades=1, final=False),  # not stored yet
    )
    found = wait(lambda: list_bars(gateway, name), lambda r: len(r.bars) == 5).bars
    assert [b.trade_count for b in found] == [1, 2, 3, 9, 1]
    assert [b.final for b in found] == [True] * 4 + [False]
    as_json = MessageToDict(found[1])
    assert as_json == {
        "startTime": stamp(starts[1]).ToJsonString(),
        "open": "60000.00000000",
        "high": "60000.02000000",
        "low": "59999.98000000",
        "close": "60000.01000000",
        "volume": "0.00200000",
        "quoteVolume": "120.0000000000000000",
        "vwap": "60000.0000000000000000",
        "tradeCount": 2,
        "takerBuyVolume": "0.00200000",
        "takerBuyQuoteVolume": "120.0000000000000000",
        "final": True,
        "revision": 5,
        "provenance": {
            "layer": "LAYER_STREAM",
            "run": "checkpoint/7",
            "firstTradeId": str(starts[1]),
            "lastTradeId": str(starts[1] + 1),
        },
    }
    chart = gateway.market.ViewBars(api.ViewBarsRequest(instrument=name, interval="1m"))
    assert chart.content_type == "application/json"
    columns = orjson.loads(chart.data)
    assert columns["startTime"] == starts
    assert columns["volume"][3] == "0.00900000"
    assert columns["final"] == [True] * 4 + [False]
    assert set(columns) == {
        "instrument", "interval", "startTime", "open", "high", "low", "close", "volume", "final",
    }  # fmt: skip
    long = list_bars(gateway, name, interval="3m").bars
    assert [b.trade_count for b in long] == [6, 10]
    assert [b.final for b in long] == [True, False]


def test_a_chart_changes_with_every_revision_also_of_an_older_bar(
    gateways: list[Gateway], feeder: Feeder, name: str
) -> None:
    def volumes(gateway: Gateway) -> list[str]:
        request = api.ViewBarsRequest(instrument=name, interval="1m")
        return orjson.loads(gateway.market.ViewBars(request).data)["volume"]

    def store(*versions: tuple[int, int]) -> None:
        rows = [bar_row(NOW_MS + n * MINUTE_MS, name=name, trades=t) for n, t in versions]
        feeder.store_bars(name, "1m", rows)
        feeder.send(*(bar(row.start_ms, name=name, trades=row.trade_count) for row in rows))

    store((0, 1), (1, 1))
    for one in gateways:
        wait(lambda g=one: volumes(g), lambda v: v == ["0.00100000", "0.00100000"])
    for versions, expected in [
        (((1, 2),), ["0.00100000", "0.00200000"]),
        (((0, 7),), ["0.00700000", "0.00200000"]),
    ]:
        store(*versions)
        for one in gateways:
            wait(lambda g=one: volumes(g), lambda v, e=expected: v == e)


def test_trades_are_the_ring_and_history_without_duplicates_or_holes(
    gateways: list[Gateway], feeder: Feeder, name: str
) -> None:
    events = [trade(n, (NOW_MS + n * 400) * 1000 + n % 7, name) for n in range(1, 301)]
    feeder.store_trades(name, [trades.from_event(event) for event in events[:200]])
    for interval in ("1d", "1h"):
        feeder.store_bars(name, interval, [bar_row(NOW_MS, interval, name=name)])
    feeder.send(*events[150:])
    for one in gateways:
        wait(
            lambda g=one: g.market.ListTrades(api.ListTradesRequest(instrument=name)),
            lambda r: len(r.trades) == 300,
        )
    for newest in (True, False):
        found: list[Any] = []
        request = api.ListTradesRequest(instrument=name, page_size=37)
        if not newest:
            request.start_time.CopyFrom(stamp(NOW_MS))
        for turn in range(20):
            # The next page is asked of the other replica.
            page = gateways[turn % 2].market.ListTrades(request)
            found = [*page.trades, *found] if newest else [*found, *page.trades]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        assert [t.trade_id for t in found] == list(range(1, 301))
    half = api.ListTradesRequest(
        instrument=name, start_time=stamp(NOW_MS + 400 * 100), end_time=stamp(NOW_MS + 400 * 110)
    )
    ids = [t.trade_id for t in gateways[0].market.ListTrades(half).trades]
    assert ids == list(range(100, 110))


def test_indicators_are_listed_with_what_is_live(
    gateway: Gateway, feeder: Feeder, name: str
) -> None:
    outputs = {"sma/20/": "1.250000000000", "bollinger/20/upper": "2.000000000000"}
    feeder.store_indicators(name, "1m", NOW_MS, outputs, 5)
    newer = indicator(NOW_MS, "1.500000000000", revision=6)
    newer.instrument = name
    feeder.send(newer)

    def listed(kind: str = "") -> list[Any]:
        request = api.ListIndicatorsRequest(instrument=name, interval="1m", indicator=kind)
        return list(gateway.market.ListIndicators(request).indicators)

    found = wait(listed, lambda values: any(v.value == "1.500000000000" for v in values))
    assert [(v.indicator, v.period, v.output, v.value) for v in found] == [
        ("bollinger", 20, "upper", "2.000000000000"),
        ("sma", 20, "", "1.500000000000"),
    ]
    assert [v.indicator for v in listed("sma")] == ["sma"]


def test_paging_is_the_same_on_both_replicas_and_over_both(
    gateways: list[Gateway], feeder: Feeder, name: str
) -> None:
    starts = [NOW_MS - n * 37 * MINUTE_MS for n in range(90)]
    rows = [bar_row(start, name=name) for start in starts]
    feeder.store_bars(name, "1m", rows)
    days = {start // 86_400_000 * 86_400_000 for start in starts}
    feeder.store_bars(name, "1d", [bar_row(day, "1d", name=name) for day in days])
    whole = [list_bars(one, name) for one in gateways]
    assert whole[0] == whole[1]
    assert [b.start_time for b in whole[0].bars] == [stamp(start) for start in sorted(starts)]
    token, found = "", []
    for turn in range(40):
        page = list_bars(
            gateways[turn % 2], name, page_size=7, page_token=token, start_time=stamp(starts[-1])
        )
        found += page.bars
        token = page.next_page_token
        if not token:
            break
    assert found == list(whole[0].bars)
    names = [g.market.ListInstruments(api.ListInstrumentsRequest()) for g in gateways]
    assert names[0] == names[1]
    # As the Spark job does: what is stored is on the topic next.
    feeder.send(*(bar(start, name=name) for start in starts))
    ask = api.GetTickerRequest(instrument=name)
    wait(
        lambda: [one.market.GetTicker(ask) for one in gateways],
        lambda both: both[0] == both[1] and both[0].trade_count_24h > 0,
    )
    listed = [g.market.ListTickers(api.ListTickersRequest(page_size=1000)) for g in gateways]
    assert [t.instrument for t in listed[0].tickers] == [t.instrument for t in listed[1].tickers]


def test_leaderboards_rank_the_day(gateways: list[Gateway], feeder: Feeder, name: str) -> None:
    feeder.send(bar(NOW_MS, name=name, trades=1_000_000))
    # The first only: others' bars are stored but never sent, so who came later knows more of them.
    request = api.GetLeaderboardRequest(leaderboard="trades", page_size=1)
    boards = wait(
        lambda: [g.market.GetLeaderboard(request) for g in gateways],
        lambda both: both[0] == both[1] and both[0].entries[0].instrument == name,
    )
    assert (boards[0].entries[0].rank, boards[0].entries[0].value) == (1, "1000000")


def test_events_are_lines_of_minimal_json(gateway: Gateway, feeder: Feeder, name: str) -> None:
    feeder.send(*(trade(n, NOW_MS * 1000 + n, name) for n in range(1, 4)), quote(1, name))
    request = StreamEventsRequest(topic="market.trades.v1", instrument=name, last=5000, limit=2)
    bodies = list(gateway.events.StreamEvents(request))
    assert {body.content_type for body in bodies} == {"application/x-ndjson"}
    text = b"".join(body.data for body in bodies).decode()
    assert text.endswith("\n")
    lines = [orjson.loads(line) for line in text.splitlines()]
    assert [line["metadata"]["trade_id"] for line in lines] == [1, 2]
    assert f'"timestamp":{NOW_MS // 1000}.000001' in text
    assert '"price":60000.01000000,' in text


def test_collectors_are_listed_with_their_health(
    mesh: TestMesh, gateway: Gateway, tmp_path: Path
) -> None:
    told = Gateway(mesh, tmp_path, "told", collectors=f"up={gateway.address},down=127.0.0.1:1")
    found = told.collectors.ListCollectors(ListCollectorsRequest()).collectors
    assert [(one.name, one.serving) for one in found] == [("down", False), ("up", True)]
    assert told.stop() == 0
