"""The live stream of the gateway on real components."""

from __future__ import annotations

from pathlib import Path

import pytest
from market_data import bar, quote, trade
from stack import NOW_MS, Feeder, Gateway, wait

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.stream_pb2 import StreamGapReason, StreamMarketResponse
from coinmesh_local.testing import TestMesh

pytestmark = pytest.mark.component


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
            assert message.gap.reason == StreamGapReason.STREAM_GAP_REASON_SLOW_CONSUMER
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
