"""The gateway on real Kafka, registry, Cassandra and Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from market_data import bar, bar_row, delta, indicator, instrument, quote, snapshot, trade
from stack import COMPONENTS, Feeder, Gateway, failure, redis_client

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.stream_pb2 import StreamMarketResponse
from coinmesh_contracts.query.v1.collector_directory_service_pb2 import ListCollectorsRequest
from coinmesh_contracts.query.v1.event_service_pb2 import StreamEventsRequest
from coinmesh_local.testing import TestMesh, eventually
from query_gateway import bars, trades

pytestmark = pytest.mark.component
MINUTE_MS = 60_000
NOW_MS = int(time.time() * 1000) // 86_400_000 * 86_400_000


@pytest.fixture(scope="module")
def feeder(mesh: TestMesh) -> Iterator[Feeder]:
    mesh.require(*COMPONENTS)
    feeder = Feeder(mesh)
    yield feeder
    feeder.close()


@pytest.fixture(scope="module")
def gateways(mesh: TestMesh, feeder: Feeder, tmp_path_factory: Any) -> Iterator[list[Gateway]]:
    """Two replicas over one market."""
    directory: Path = tmp_path_factory.mktemp("gateway")
    feeder.send(instrument("binance.BTC-USDT"), instrument("binance.ETH-USDT"))
    started = [Gateway(mesh, directory, name, reader_queue="50") for name in ("one", "two")]
    yield [gateway.wait_ready() for gateway in started]
    assert [gateway.stop() for gateway in started] == [0, 0]


@pytest.fixture
def gateway(gateways: list[Gateway]) -> Gateway:
    return gateways[0]


@pytest.fixture
def name(request: pytest.FixtureRequest, feeder: Feeder, gateways: list[Gateway]) -> str:
    """An instrument of the test's own, known to both replicas."""
    symbol = request.node.name.removeprefix("test_").upper().replace("_", "")
    name = f"binance.{symbol[:60]}-USDT"
    feeder.send(instrument(name))
    for gateway in gateways:
        wait(lambda g=gateway: g.market.GetInstrument(api.GetInstrumentRequest(instrument=name)))
    return name


def wait(call: Callable[[], Any], until: Callable[[Any], bool] = lambda _: True) -> Any:
    """The first answer of a call that satisfies `until`; failures before it are waited out."""
    last: list[Any] = [None]

    def check() -> bool:
        try:
            last[0] = call()
        except (Exception, pytest.fail.Exception) as error:
            last[0] = error
            return False
        return until(last[0])

    try:
        eventually(check, "the answer comes")
    except AssertionError:
        raise AssertionError(f"last answer: {last[0]}") from None
    return last[0]


def stamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def list_bars(gateway: Gateway, name: str, **more: Any) -> api.ListBarsResponse:
    return gateway.market.ListBars(
        api.ListBarsRequest(instrument=name, interval=more.pop("interval", "1m"), **more)
    )


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
            "layer": "stream",
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
    feeder.store_bars(name, "1d", [bar_row(NOW_MS, "1d", name=name)])
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


def test_the_live_stream_tells_news_and_goes_on_at_another_replica(
    gateways: list[Gateway], feeder: Feeder, name: str
) -> None:
    request = api.StreamMarketRequest(instruments=[name], intervals=["1m", "1s"])
    stream = gateways[0].market.StreamMarket(request)
    assert next(stream).HasField("heartbeat")
    feeder.send(trade(1, NOW_MS * 1000, name), quote(1, name), bar(NOW_MS, "1s", name))
    seen: list[str] = []
    message = StreamMarketResponse()
    while len(seen) < 3:
        message = next(stream)
        seen += [str(event.WhichOneof("event")) for event in message.batch.events]
    assert sorted(seen) == ["bar", "quote", "trade"]
    stream.cancel()
    feeder.send(*(trade(n, (NOW_MS + n) * 1000, name) for n in range(2, 6)))
    request.resume_token = message.resume_token
    resumed = gateways[1].market.StreamMarket(request)
    ids: list[int] = []
    while len(ids) < 4:
        message = next(resumed)
        assert not message.HasField("gap")
        ids += [event.trade.trade_id for event in message.batch.events]
    assert ids == [2, 3, 4, 5]
    resumed.cancel()


def test_a_stopping_replica_ends_its_streams_with_a_last_word(
    mesh: TestMesh, feeder: Feeder, name: str, tmp_path: Path
) -> None:
    replica = Gateway(mesh, tmp_path, "stopping").wait_ready()
    stream = replica.market.StreamMarket(api.StreamMarketRequest(instruments=[name]))
    next(stream)
    replica.terminate()
    messages = list(stream)
    assert messages[-1].error.code == 14
    assert messages[-1].resume_token
    assert replica.stop() == 0


def test_a_slow_reader_is_told_what_it_lost(gateway: Gateway, feeder: Feeder, name: str) -> None:
    stream = gateway.market.StreamMarket(
        api.StreamMarketRequest(instruments=[name], channels=["trade"])
    )
    next(stream)
    # Far more than the queue of 50 and what the transport holds, while nothing is read.
    total = 30_000
    feeder.send(*(trade(n, (NOW_MS + n) * 1000, name) for n in range(1, total + 1)))
    last = api.ListTradesRequest(instrument=name, page_size=1)
    wait(lambda: gateway.market.ListTrades(last), lambda r: r.trades[-1].trade_id == total)
    received = dropped = newest = 0
    while newest < total:
        message = next(stream)
        if message.HasField("gap"):
            assert message.gap.reason == "SLOW_READER"
            dropped += message.gap.dropped
        ids = [event.trade.trade_id for event in message.batch.events]
        assert ids == sorted(ids)
        received += len(ids)
        newest = ids[-1] if ids else newest
    stream.cancel()
    assert dropped > 0
    assert received + dropped == total


def test_a_record_that_is_no_event_is_skipped(gateway: Gateway, feeder: Feeder, name: str) -> None:
    for garbage in (b"", b"{}", b"\x00\x7f\xff\xff\xff\x00abc"):
        feeder.raw("market.trades.v1", name.encode(), garbage)
    feeder.send(trade(1, NOW_MS * 1000, name))
    wait(
        lambda: gateway.market.GetTicker(api.GetTickerRequest(instrument=name)),
        lambda t: t.last_price == "60000.01000000",
    )


def test_leaderboards_rank_the_day(gateways: list[Gateway], feeder: Feeder, name: str) -> None:
    feeder.send(bar(NOW_MS, name=name, trades=1_000_000))
    request = api.GetLeaderboardRequest(leaderboard="trades", limit=3)
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
    ("ViewBars", {"limit": 5001}, INVALID, "TOO_LARGE"),
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
    feeder.store_bars(name, "1d", [bar_row(NOW_MS, "1d", name=name)])
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


def test_the_book_is_right_after_a_kill_in_the_middle_of_deltas(
    mesh: TestMesh, feeder: Feeder, name: str, tmp_path: Path
) -> None:
    first = Gateway(mesh, tmp_path, "first").wait_ready()
    feeder.send(snapshot(100, {6000: 5, 5999: 7}, {6001: 3}, name))
    feeder.send(*(delta(n, n, {5900 + n: n}, {6100 + n: n}, name) for n in range(101, 111)))
    get = api.GetBookRequest(instrument=name, depth=50)
    wait(lambda: first.market.GetBook(get), lambda b: b.last_update_id == 110)
    first.kill()
    feeder.send(delta(111, 112, {6000: 0}, {6002: 4}, name), quote(9, name))
    second = Gateway(mesh, tmp_path, "second").wait_ready()
    book = second.market.GetBook(get)
    assert book.last_update_id == 112
    assert not book.stale
    assert (book.bids[0].price, book.bids[0].size) == ("60.10", "0.110")
    assert [level.price for level in book.asks[:2]] == ["60.01", "60.02"]
    assert len(book.bids) == 11
    # A hole that nobody announced: no book rather than a wrong one, until the next snapshot.
    feeder.send(delta(115, 115, {1: 1}, {}, name))
    wait(lambda: failure(lambda: second.market.GetBook(get))[1] == "BOOK_NOT_READY", bool)
    feeder.send(snapshot(200, {5000: 1}, {5001: 1}, name))
    wait(lambda: second.market.GetBook(get), lambda b: b.last_update_id == 200)
    assert second.stop() == 0


def test_redis_may_be_lost_at_any_time(
    mesh: TestMesh, gateways: list[Gateway], feeder: Feeder, name: str, tmp_path: Path
) -> None:
    redis = redis_client(mesh)
    gateway = gateways[0]
    feeder.store_bars(name, "1m", [bar_row(NOW_MS, name=name, trades=8)])
    feeder.send(trade(3, NOW_MS * 1000, name), quote(3, name), bar(NOW_MS, name=name, trades=8))
    ask = api.GetTickerRequest(instrument=name)
    chart = api.ViewBarsRequest(instrument=name, interval="1m")
    ticker = wait(
        lambda: gateway.market.GetTicker(ask), lambda t: bool(t.last_price and t.trade_count_24h)
    )
    before = wait(lambda: gateway.market.ViewBars(chart).data, lambda d: b'"0.00800000"' in d)
    key = f"cm:latest:quote:{name}"
    wait(lambda: redis.hget(key, "version"), lambda v: v is not None)

    # An older value, by whatever replica, changes nothing; a planted one is overwritten or ignored.
    redis.flushall()
    wait(lambda: redis.hget(key, "version"), lambda v: v is not None)
    wait(lambda: redis.zscore("cm:leaderboard:trades", name), lambda score: score == 8.0)
    assert gateway.market.GetTicker(ask) == ticker
    assert gateway.market.ViewBars(chart).data == before

    redis.hset(f"cm:latest:trade:{name}", mapping={"version": "9" * 40, "data": b"\xff garbage"})
    mesh.component("redis").stop()
    for one in gateways:
        assert one.market.GetTicker(ask) == ticker
        assert one.market.ViewBars(chart).data == before
        assert len(list_bars(one, name).bars) == 1
    feeder.send(trade(4, (NOW_MS + 1) * 1000, name))
    wait(lambda: gateway.market.GetTicker(ask), lambda t: t.last_price == "60000.04000000")
    # A replica that starts without Redis knows the same from Kafka and Cassandra.
    fresh = Gateway(mesh, tmp_path, "without-redis").wait_ready()
    assert fresh.market.GetTicker(ask) == gateway.market.GetTicker(ask)
    assert fresh.market.ViewBars(chart).data == before
    fresh.kill()
    mesh.component("redis").start()
    wait(lambda: redis.hget(key, "version"), lambda v: v is not None)
    assert gateway.market.ViewBars(chart).data == before


def test_while_cassandra_is_down_live_data_is_served(
    mesh: TestMesh, gateway: Gateway, feeder: Feeder, name: str, tmp_path: Path
) -> None:
    feeder.store_bars(name, "1m", [bar_row(NOW_MS, name=name)])
    feeder.send(
        snapshot(1, {10: 1}, {11: 1}, name),
        *(trade(n, NOW_MS * 1000 + n, name) for n in range(1, 60)),
    )
    assert len(list_bars(gateway, name).bars) == 1
    mesh.component("cassandra").stop()
    waiting = Gateway(mesh, tmp_path, "waiting")
    code, _, delay = wait(
        lambda: failure(lambda: list_bars(gateway, name)), lambda f: f[1] == "CASSANDRA_UNAVAILABLE"
    )
    assert code == "UNAVAILABLE"
    assert delay is not None
    stream = gateway.market.StreamMarket(api.StreamMarketRequest(instruments=[name]))
    next(stream)
    feeder.send(trade(60, NOW_MS * 1000 + 60, name))
    assert next(stream).batch.events[0].trade.trade_id == 60
    stream.cancel()
    ask = api.GetTickerRequest(instrument=name)
    wait(lambda: gateway.market.GetTicker(ask), lambda t: t.last_price == "60000.60000000")
    assert gateway.market.GetBook(api.GetBookRequest(instrument=name)).last_update_id == 1
    newest = gateway.market.ListTrades(api.ListTradesRequest(instrument=name, page_size=20)).trades
    assert [t.trade_id for t in newest] == list(range(41, 61))
    assert not waiting.is_serving()
    mesh.component("cassandra").start()
    wait(lambda: list_bars(gateway, name), lambda r: len(r.bars) == 1)
    waiting.wait_ready()
    assert waiting.market.GetTicker(ask).last_price == "60000.60000000"
    waiting.kill()


def test_while_kafka_is_down_what_is_known_is_served_and_marked(
    mesh: TestMesh, gateway: Gateway, feeder: Feeder, name: str, tmp_path: Path
) -> None:
    feeder.send(snapshot(1, {10: 1}, {11: 1}, name), trade(1, NOW_MS * 1000, name))
    get = api.GetBookRequest(instrument=name)
    wait(lambda: gateway.market.GetBook(get), lambda b: not b.stale)
    mesh.component("kafka").stop()
    wait(lambda: gateway.market.GetBook(get), lambda b: b.stale)
    assert "degraded" in gateway.log()
    late = Gateway(mesh, tmp_path, "late")
    wait(late.log, lambda text: f"Kafka at {mesh.endpoints['kafka']}" in text)
    assert not late.is_serving()
    assert gateway.market.GetTicker(api.GetTickerRequest(instrument=name)).last_price
    events = StreamEventsRequest(topic="market.trades.v1", last=1)
    code, reason, delay = failure(lambda: gateway.events.StreamEvents(events))
    assert (code, reason, delay is not None) == ("UNAVAILABLE", "KAFKA_UNAVAILABLE", True)
    mesh.component("kafka").start()
    feeder.send(delta(2, 2, {9: 5}, {}, name))
    book = wait(
        lambda: gateway.market.GetBook(get), lambda b: b.last_update_id == 2 and not b.stale
    )
    assert [level.price for level in book.bids] == ["0.10", "0.09"]
    assert late.wait_ready().market.GetBook(get) == book
    late.kill()


def test_the_gateway_needs_no_figure_of_its_own(
    gateway: Gateway, feeder: Feeder, name: str
) -> None:
    """A bar as the Spark job writes it comes out digit for digit, whatever its size."""
    row = bar_row(NOW_MS, name=name)._replace(
        open="0.00000001", low="0.00000001", high="92233720368.54775807", close="1.10000000",
        volume="340282366920938463463.37460743", quote_volume="0.0000000000000001",
        vwap="0.0000000000000000",
    )  # fmt: skip
    feeder.store_bars(name, "1m", [row])
    found = list_bars(gateway, name).bars[0]
    assert (found.open, found.high, found.close) == (row.open, row.high, row.close)
    assert (found.volume, found.quote_volume, found.vwap) == (
        row.volume, row.quote_volume, row.vwap,
    )  # fmt: skip
    assert bars.scale(found.volume) == 8
