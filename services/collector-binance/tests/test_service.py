"""The service on real Kafka and registry, against the simulated exchange: restarts and faults."""

import json
import re
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.longrunning.operations_pb2 import Operation
from world import AS_ADMIN, DEAD, GAPS, TRADES, World

from coinmesh_contracts import topics
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from coinmesh_contracts.events.v1.liveness_pb2 import CoverageState, Liveness
from coinmesh_sources.digest import Digests, parse
from coinmesh_sources.testing import eventually
from meshkit.errors import error_info

pytestmark = pytest.mark.component


async def test_killed_and_started_again_it_loses_and_repeats_no_trade(
    world: World, tmp_path: Path
) -> None:
    for _ in range(2):
        await world.published(beyond=20)
        await world.service.end(signal.SIGKILL)
        before = max(world.trade_ids)

        async def has_moved(last: int = before) -> bool:
            return (await world.exchange.truth(world.symbol))["lastTradeId"] > last + 20

        await eventually(has_moved, "trades are made while the collector is down")
        await world.service.start()
        gap = await world.gap("trade", state=2, cause=3)
        assert gap.repaired_count == gap.ids.last - gap.ids.first + 1
    await world.published(beyond=5)
    await world.repaired()
    assert await world.service.end() == 0
    # Whatever a killed session published, its frames were there before.
    sessions = re.findall(r'"session": "([^"]+)"', world.service.text())
    assert len(set(sessions)) == 3
    out = world.replay(tmp_path, sessions)
    for topic in (TRADES, topics.QUOTES.name, topics.BOOKS.name):
        published = {event.event_id for event in world.log.events(topic, world.instrument)}
        with (out / f"{topic}.jsonl").open() as lines:
            replayed = {json.loads(line)["eventId"] for line in lines}
        assert published - replayed == set()
        if topic == TRADES:
            assert replayed - published == set()


async def test_faults_are_reported_and_repaired(world: World) -> None:
    await world.published()
    fault, stream = world.exchange.fault, world.stream
    await fault(kind="drop", stream=f"{stream}@trade", count=3)
    gap = await world.gap("trade", state=2, cause=1)
    assert gap.repaired_count == 3
    await fault(kind="drop", stream=f"{stream}@depth*", count=1)
    await world.gap("book", state=3, cause=1)
    snapshots = world.snapshots()
    await fault(kind="rate_limit", path="/api/v3/historicalTrades", count=1, retry_after_s=1)
    await fault(kind="stale_snapshot", symbol=world.symbol, count=1)
    await fault(kind="malformed", stream=f"{stream}@trade", count=1)
    await fault(kind="malformed", stream=f"{stream}@depth*", count=1)
    await world.gap("trade", state=2, cause=5)
    await world.gap("book", state=3, cause=5)
    assert "answers 429" in world.service.text()
    # One that is older than the stream doesn't repair the book: it takes another.
    await eventually(lambda: world.snapshots() >= snapshots + 2, "two snapshots more")
    await fault(kind="duplicate", stream=f"{stream}@trade", count=5)
    await fault(kind="duplicate", stream=f"{stream}@depth*", count=5)
    await world.faults_applied()
    await fault(kind="disconnect")
    # It may be back before anything was missed, so there need not be a gap.
    await eventually(lambda: "/2 carries" in world.service.text(), "it connects again")
    await world.published(beyond=5)
    await fault(kind="stall", duration_s=8)
    await world.gap("book", state=3, cause=4)
    await world.published(beyond=5)
    await world.repaired()
    dead = [parse(DEAD, message.value()) for message in world.log.read(DEAD)]
    assert {letter.reason for letter in dead if letter.symbol == world.symbol} == {"NOT_JSON"}


async def test_two_symbols_fail_and_recover_independently(pair: tuple[World, World]) -> None:
    first, second = pair
    for world in pair:
        await world.published()
    fault = first.exchange.fault
    await fault(kind="drop", symbol=first.symbol, stream="*@trade", count=3)
    assert (await first.gap("trade", state=2, cause=1)).repaired_count == 3
    await fault(kind="drop", symbol=first.symbol, stream="*@depth*", count=1)
    await first.gap("book", state=3, cause=1)
    await first.faults_applied()
    await second.published(beyond=5)
    assert second.log.events(GAPS, second.instrument) == []

    await first.service.end(signal.SIGKILL)
    for world in pair:
        before = max(world.trade_ids)

        async def has_moved(world: World = world, last: int = before) -> bool:
            return (await world.exchange.truth(world.symbol))["lastTradeId"] > last + 5

        await eventually(has_moved, "trades are made while the collector is down")
    await first.service.start()
    for world in pair:
        gap = await world.gap("trade", state=2, cause=3)
        assert gap.repaired_count == gap.ids.last - gap.ids.first + 1

    async with first.channel() as channel:
        await CollectorServiceStub(channel).RemoveSubscription(
            pb.RemoveSubscriptionRequest(collector="binance", instrument=first.instrument),
            metadata=AS_ADMIN,
        )
    last = (await first.exchange.truth(first.symbol))["lastTradeId"]
    await second.published(beyond=20)
    for world in pair:
        await world.repaired()
        published = world.log.events(TRADES, world.instrument)
        assert {event.symbol for event in published} == {world.symbol}
    assert max(first.trade_ids) <= last


async def test_an_announced_shutdown_leaves_no_gap(world: World) -> None:
    await world.published()
    await world.exchange.fault(kind="server_shutdown", grace_s=6)

    def replaced() -> bool:
        return "/2 carries" in world.service.text()

    await eventually(replaced, "a second connection carries the symbol")
    await eventually(lambda: _status(world, 1), "one connection is left")
    await world.published(beyond=30)
    world.assert_complete()
    assert world.log.events(GAPS, world.instrument) == []


async def test_connections_that_end_before_their_certificates_leave_no_gap(
    short_lived: World,
) -> None:
    world = short_lived
    await eventually(lambda: "/2 carries" in world.service.text(), "it moves over")
    snapshots = world.snapshots()
    # With the ninth the certificates of the start have expired.
    for carries in ("/5 carries", "/9 carries"):
        await eventually(lambda carries=carries: carries in world.service.text(), carries)
    await world.published(beyond=100)
    assert world.snapshots() == snapshots > 0
    world.assert_complete()
    assert world.log.events(GAPS, world.instrument) == []
    assert "reconnecting" not in world.service.text()


async def _status(world: World, connections: int) -> bool:
    async with world.channel() as channel:
        status = await CollectorServiceStub(channel).GetStatus(
            pb.GetStatusRequest(collector="binance"), metadata=AS_ADMIN
        )
        return len(status.connections) == connections and "/2" in status.connections[0].connection


async def test_archived_frames_replay_to_what_was_published(world: World, tmp_path: Path) -> None:
    await world.published()
    await world.exchange.fault(kind="drop", stream=f"{world.stream}@trade", count=2)
    await world.exchange.fault(kind="drop", stream=f"{world.stream}@depth*", count=1)
    await world.gap("trade", state=2, cause=1)
    await world.gap("book", state=3, cause=1)
    await world.published(beyond=5)
    assert await world.service.end() == 0
    session = world.service.text().rpartition('"session": "')[2].partition('"')[0]
    out = world.replay(tmp_path, [session])
    published = Digests()
    for topic in (TRADES, GAPS, topics.QUOTES.name, topics.BOOKS.name):
        for event in world.log.events(topic, world.instrument):
            published.add(topic, event.instrument.encode(), event)
        assert f"{published.hexdigest(topic)}  {topic}" in (out / "digest").read_text()


async def test_subscriptions_and_backfills_by_rpc(world: World) -> None:
    last = await world.published(beyond=10)
    async with world.channel() as channel:
        stub = CollectorServiceStub(channel)
        listed = await stub.ListSubscriptions(
            pb.ListSubscriptionsRequest(collector="binance"), metadata=AS_ADMIN
        )
        (name,) = [each.instrument for each in listed.subscriptions]
        assert name == world.instrument
        added = await stub.AddSubscription(
            pb.AddSubscriptionRequest(
                collector="binance", subscription=pb.Subscription(instrument=world.symbol)
            ),
            metadata=AS_ADMIN,
        )
        assert added.instrument == name
        first = min(world.trade_ids)
        begin = max(1, first - 30)
        operation = await stub.Backfill(
            pb.BackfillRequest(
                collector="binance", instrument=name, ids=pb.IdRange(first=begin, last=last)
            ),
            metadata=AS_ADMIN,
        )

        async def done() -> Operation | None:
            now = await stub.GetBackfill(
                pb.GetBackfillRequest(
                    collector="binance", backfill=operation.name.rpartition("/")[2]
                ),
                metadata=AS_ADMIN,
            )
            return now if now.done else None

        finished = await eventually(done, "the backfill is done")
        response = pb.BackfillResponse()
        assert finished.response.Unpack(response)
        await world.published()
        found = set(world.trade_ids)
        assert response.published == len([n for n in range(begin, first) if n in found])
        world.assert_complete()
        for call, code, reason in (
            (
                stub.GetStatus(pb.GetStatusRequest(collector="kraken"), metadata=AS_ADMIN),
                grpc.StatusCode.NOT_FOUND,
                "COLLECTOR_NOT_FOUND",
            ),
            (
                stub.RemoveSubscription(
                    pb.RemoveSubscriptionRequest(collector="binance", instrument="NOPE"),
                    metadata=AS_ADMIN,
                ),
                grpc.StatusCode.NOT_FOUND,
                "INSTRUMENT_NOT_FOUND",
            ),
            (
                stub.ListSubscriptions(
                    pb.ListSubscriptionsRequest(collector="binance", page_token="%"),
                    metadata=AS_ADMIN,
                ),
                grpc.StatusCode.INVALID_ARGUMENT,
                "PAGE_TOKEN_INVALID",
            ),
            (
                stub.Backfill(
                    pb.BackfillRequest(
                        collector="binance", instrument=name, ids=pb.IdRange(first=9, last=1)
                    ),
                    metadata=AS_ADMIN,
                ),
                grpc.StatusCode.INVALID_ARGUMENT,
                "TRADE_RANGE_INVALID",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            info = error_info(caught.value)
            assert caught.value.code() == code
            assert info is not None
            assert info.reason == reason
        removed = pb.RemoveSubscriptionRequest(collector="binance", instrument=name)
        await stub.RemoveSubscription(removed, metadata=AS_ADMIN)
        listed = await stub.ListSubscriptions(
            pb.ListSubscriptionsRequest(collector="binance"), metadata=AS_ADMIN
        )
        assert not listed.subscriptions
        await stub.Drain(pb.DrainRequest(collector="binance"), metadata=AS_ADMIN)
    assert await world.service.end(0) == 0
    removed_after = max(world.trade_ids)
    await world.service.start()
    async with world.channel() as channel:
        stub = CollectorServiceStub(channel)
        listed = await stub.ListSubscriptions(
            pb.ListSubscriptionsRequest(collector="binance"), metadata=AS_ADMIN
        )
        assert not listed.subscriptions, "removed at run time, though the settings name it"
        added = pb.AddSubscriptionRequest(collector="binance")
        added.subscription.instrument = name
        await stub.AddSubscription(added, metadata=AS_ADMIN)
    await world.published(beyond=5)
    await world.service.end(signal.SIGKILL)
    await world.service.start()
    await world.published(beyond=5)
    # What was traded while it was removed is not owed.
    await world.repaired(removed_after)


async def test_liveness_reports_each_channel_until_the_stop(world: World) -> None:
    await world.published(beyond=5)
    name = world.instrument

    def states() -> dict[str, CoverageState.ValueType]:
        records = world.log.read(topics.LIVENESS.name)
        event = parse(topics.LIVENESS.name, records[-1].value()) if records else Liveness()
        assert isinstance(event, Liveness)
        return {
            channel.channel: state
            for channel in event.channels
            for instrument, state in zip(channel.instruments, channel.states, strict=True)
            if instrument == name
        }

    live = dict.fromkeys(("trade", "quote", "book", "kline_1m"), CoverageState.COVERAGE_STATE_LIVE)
    await eventually(lambda: states() == live, "every channel is live")
    assert await world.service.end() == 0
    assert "checkpoint was not acknowledged" not in world.service.text()
    assert set(states().values()) == {CoverageState.COVERAGE_STATE_DOWN}
