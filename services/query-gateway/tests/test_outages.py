"""The gateway while its components are killed or away, and after its own kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from market_data import bar, bar_row, delta, quote, snapshot, trade
from stack import NOW_MS, Collector, Feeder, Gateway, failure, list_bars, redis_client, wait

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.query.v1.event_service_pb2 import StreamEventsRequest
from coinmesh_local.testing import TestMesh
from query_gateway import bars

pytestmark = pytest.mark.component


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
        bar(NOW_MS, name=name, trades=5),
    )
    ranked = "cm:leaderboard:trades:values"
    wait(lambda: redis_client(mesh).hget(ranked, name), lambda value: value is not None)
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
    # Until it has a view of its own a replica ranks as the others left it in Redis.
    board = api.GetLeaderboardRequest(leaderboard="trades", page_size=1)
    wait(
        lambda: (
            waiting.market.GetLeaderboard(board).entries
            == gateway.market.GetLeaderboard(board).entries
        ),
        bool,
    )
    mesh.component("cassandra").start()
    wait(lambda: list_bars(gateway, name), lambda r: len(r.bars) == 1)
    waiting.wait_ready()
    assert waiting.market.GetTicker(ask).last_price == "60000.60000000"
    waiting.kill()


def test_data_of_stopped_collector_is_stale(
    gateway: Gateway, feeder: Feeder, collector: Collector, name: str
) -> None:
    feeder.send(snapshot(1, {10: 1}, {11: 1}, name), trade(1, NOW_MS * 1000, name), quote(7, name))
    get, ask = api.GetBookRequest(instrument=name), api.GetTickerRequest(instrument=name)
    wait(lambda: gateway.market.GetTicker(ask), lambda t: bool(t.last_price and t.bid_price))
    assert not gateway.market.GetTicker(ask).stale
    assert not wait(lambda: gateway.market.GetBook(get)).stale
    stream = gateway.market.StreamMarket(api.StreamMarketRequest(instruments=[name]))
    assert next(stream).heartbeat.stale_instruments == []
    collector.is_down.set()
    try:
        book = wait(lambda: gateway.market.GetBook(get), lambda b: b.stale)
        ticker = wait(lambda: gateway.market.GetTicker(ask), lambda t: t.stale)
        # Each has the time of its data.
        assert book.receive_time.ToNanoseconds() == 1
        assert ticker.quote_receive_time.ToNanoseconds() == 7_000_000
        assert ticker.event_time.ToMilliseconds() == NOW_MS
        assert any(list(message.heartbeat.stale_instruments) == [name] for message in stream)
    finally:
        collector.is_down.clear()
    stream.cancel()
    wait(lambda: gateway.market.GetBook(get), lambda b: not b.stale)


def test_while_kafka_is_down_what_is_known_is_served_and_marked(
    mesh: TestMesh, gateway: Gateway, feeder: Feeder, name: str, tmp_path: Path
) -> None:
    feeder.send(snapshot(1, {10: 1}, {11: 1}, name), trade(1, NOW_MS * 1000, name))
    get = api.GetBookRequest(instrument=name)
    wait(lambda: gateway.market.GetBook(get), lambda b: not b.stale)
    mesh.component("kafka").stop()
    wait(lambda: gateway.market.GetBook(get), lambda b: b.stale)
    assert "degraded" in gateway.log()
    late = Gateway(mesh, tmp_path, "late", live_lookback_seconds="900")
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
