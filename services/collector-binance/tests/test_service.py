"""The service on real Kafka and registry, against the simulated exchange: restarts and faults."""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from google.longrunning.operations_pb2 import Operation

from coinmesh_contracts import topics
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from coinmesh_simulators.testing import Simulator
from collector_binance.digest import Digests, parse
from collector_binance.main import main
from meshkit.authz import User, stated
from meshkit.errors import error_info
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
SECONDS = 180.0
TRADES, GAPS, DEAD = topics.TRADES.name, topics.GAPS.name, topics.DEAD_LETTERS.name


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of an (asynchronous) condition."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"not in {SECONDS:.0f} s: {what}"
        await asyncio.sleep(0.2)


AS_ADMIN = stated(User("test", ("admin",), "free"))


class Log:
    """What Kafka holds, read from the beginning and then on."""

    def __init__(self, kafka: dict[str, Any]) -> None:
        self._consumer = Consumer(
            {
                **kafka,
                "group.id": "tests",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._records: dict[str, list[Message]] = {}
        self._next: dict[tuple[str, int], int] = {}

    def read(self, topic: str) -> list[Message]:
        """All records of a topic up to now, in order of each partition."""
        records = self._records.setdefault(topic, [])
        count = len(self._consumer.list_topics(topic).topics[topic].partitions)
        left: dict[int, int] = {}
        for number in range(count):
            end = self._consumer.get_watermark_offsets(TopicPartition(topic, number))[1]
            if self._next.get((topic, number), 0) < end:
                left[number] = end
        self._consumer.assign(
            [TopicPartition(topic, n, self._next.get((topic, n), 0)) for n in left]
        )
        while left:
            for message in self._consumer.consume(2000, 0.1):
                assert message.error() is None, message.error()
                number, offset = message.partition(), message.offset()
                records.append(message)
                self._next[topic, number] = offset + 1
                if offset + 1 >= left.get(number, 0):
                    left.pop(number, None)
        return records

    def events(self, topic: str, symbol: str) -> list[Any]:
        """The events of one symbol."""
        name = f"binance.{symbol.removesuffix('USDT')}-USDT".encode()
        mine = [message for message in self.read(topic) if message.key() == name]
        return [parse(topic, message.value()) for message in mine]

    def trade_ids(self, symbol: str) -> list[int]:
        """The ids of a symbol's trades, as they stand on the topic."""
        return [event.trade_id for event in self.events(TRADES, symbol)]

    def gaps(self, symbol: str, channel: str) -> dict[str, Any]:
        """The last state of each gap of a channel."""
        found = [gap for gap in self.events(GAPS, symbol) if gap.channel == channel]
        return {gap.gap_id: gap for gap in sorted(found, key=lambda gap: gap.revision)}

    def close(self) -> None:
        self._consumer.close()


class Service:
    """A `collector-binance serve` process."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        await eventually(self._is_ready, f"the collector is ready; its log: {self._log}")

    def spawn(self) -> None:
        """Start it."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("COINMESH_")}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "collector_binance.main", "serve"],
                env=clean | self._environment,
                stderr=log,
            )

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()[-3000:]
        last = self.text().rpartition('"message": "serving"')[2]
        if '"message": "ready"' not in last:
            return False
        self.address = last.partition('"grpc": "')[2].partition('"')[0]
        return True

    def text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait)


class World:
    """One simulated exchange with one symbol of its own, a collector for it, and Kafka."""

    def __init__(
        self,
        symbol: str,
        exchange: Simulator,
        service: Service,
        log: Log,
        edge: grpc.ChannelCredentials,
    ) -> None:
        self.symbol, self.exchange, self.service, self.log = symbol, exchange, service, log
        self._edge = edge

    def channel(self) -> grpc.aio.Channel:
        """To the collector, as Envoy comes; each call needs `AS_ADMIN`."""
        return grpc.aio.secure_channel(self.service.address, self._edge)

    @property
    def stream(self) -> str:
        return self.symbol.lower()

    async def published(self, beyond: int = 0) -> int:
        """Wait for the trade that the exchange made last, or `beyond` more; its id."""
        last = (await self.exchange.truth(self.symbol))["lastTradeId"] + beyond

        def is_there() -> bool:
            return max(self.log.trade_ids(self.symbol), default=0) >= last

        await eventually(is_there, f"trade {last} of {self.symbol} is on the topic")
        return last

    async def gap(self, channel: str, state: int, cause: int) -> Any:
        """Wait for a gap with that state and cause."""

        def found() -> Any:
            gaps = self.log.gaps(self.symbol, channel).values()
            return next((g for g in gaps if (g.state, g.cause) == (state, cause)), None)

        return await eventually(found, f"a {channel} gap with state {state} and cause {cause}")

    def replay(self, directory: Path, sessions: list[str]) -> Path:
        """Replay what is archived of some sessions; the directory of the output."""
        rows = [
            {
                "topic": message.topic(),
                "partition": message.partition(),
                "offset": message.offset(),
                "key": message.key(),
                "value": message.value(),
            }
            for message in self.log.read(topics.FRAMES.name)
            if message.key().decode().rpartition("/")[0] in sessions
        ]
        (directory / "raw").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), directory / "raw" / "0-0-9.parquet")
        assert main(["replay", str(directory / "raw"), "--out", str(directory / "out")]) == 0
        return directory / "out"

    def assert_complete(self) -> None:
        """No trade is missing, and none is there twice."""
        ids = self.log.trade_ids(self.symbol)
        repeated = [number for number, count in Counter(ids).items() if count > 1]
        assert repeated == []
        assert set(ids) == set(range(min(ids), max(ids) + 1))


@pytest.fixture
def kafka(mesh: Any) -> dict[str, str]:
    """The settings of a mesh with topics and schemas."""
    mesh.require("topics", "schemas", "kafka-access")
    return mesh.settings_of("collector-binance")


@pytest.fixture
async def world(
    mesh: Any, kafka: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """A world with a symbol that no other test has: the topics are shared."""
    digest = hashlib.sha256(f"{request.node.nodeid}{tmp_path}".encode()).hexdigest()
    symbol = f"T{int(digest[:8], 16)}USDT"
    exchange = Simulator(tmp_path / "exchange", {"symbols": symbol, "rate": 40})
    await exchange.start()
    environment = kafka | {
        "COINMESH_BINANCE_WS_URL": exchange.ws,
        "COINMESH_BINANCE_REST_URL": exchange.base,
        "COINMESH_BINANCE_MTLS": "0",
        "COINMESH_BINANCE_SYMBOLS": symbol,
        "COINMESH_BINANCE_STALL_SECONDS": "3",
        "COINMESH_BINANCE_WAITING_RECORDS": "300",
        "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
    }
    service = Service(environment, tmp_path / "collector.log")
    log = Log(client_config(mesh.read(KafkaSettings), "tests"))
    try:
        await service.start()
        yield World(symbol, exchange, service, log, mesh.grpc_credentials("envoy"))
    finally:
        await service.end(signal.SIGKILL)
        await exchange.end(signal.SIGKILL)
        log.close()


async def test_killed_and_started_again_it_loses_and_repeats_no_trade(
    world: World, tmp_path: Path
) -> None:
    for _ in range(2):
        await world.published(beyond=20)
        await world.service.end(signal.SIGKILL)
        before = max(world.log.trade_ids(world.symbol))

        async def has_moved(last: int = before) -> bool:
            return (await world.exchange.truth(world.symbol))["lastTradeId"] > last + 20

        await eventually(has_moved, "trades are made while the collector is down")
        await world.service.start()
        gap = await world.gap("trade", state=2, cause=3)
        assert gap.repaired_count == gap.last_id - gap.first_id + 1
    await world.published(beyond=5)
    world.assert_complete()
    assert await world.service.end() == 0
    # Whatever a killed session published, its frames were there before.
    sessions = re.findall(r'"session": "([^"]+)"', world.service.text())
    assert len(set(sessions)) == 3
    out = world.replay(tmp_path, sessions)
    for topic in (TRADES, topics.QUOTES.name, topics.BOOKS.name):
        published = {event.event_id for event in world.log.events(topic, world.symbol)}
        with (out / f"{topic}.jsonl").open() as lines:
            replayed = {json.loads(line)["eventId"] for line in lines}
        assert published - replayed == set()
        if topic == TRADES:
            assert replayed - published == set()


async def test_faults_are_told_and_repaired(world: World) -> None:
    await world.published()
    fault, stream = world.exchange.fault, world.stream
    await fault(kind="drop", stream=f"{stream}@trade", count=3)
    gap = await world.gap("trade", state=2, cause=1)
    assert gap.repaired_count == 3
    await fault(kind="drop", stream=f"{stream}@depth*", count=1)
    await world.gap("book", state=3, cause=1)
    await fault(kind="rate_limit", path="/api/v3/historicalTrades", count=1, retry_after_s=1)
    await fault(kind="stale_snapshot", symbol=world.symbol, count=1)
    await fault(kind="malformed", stream=f"{stream}@trade", count=1)
    await fault(kind="malformed", stream=f"{stream}@depth*", count=1)
    await world.gap("trade", state=2, cause=5)
    await world.gap("book", state=3, cause=5)
    await fault(kind="duplicate", count=20)
    await fault(kind="disconnect")
    # It may be back before anything was missed, so there need not be a gap.
    await eventually(lambda: "/2 carries" in world.service.text(), "it connects again")
    await world.published(beyond=5)
    await fault(kind="stall", duration_s=8)
    await world.gap("book", state=3, cause=4)
    await world.published(beyond=5)
    world.assert_complete()
    dead = [parse(DEAD, message.value()) for message in world.log.read(DEAD)]
    assert {letter.reason for letter in dead if letter.symbol == world.symbol} == {"NOT_JSON"}


async def test_an_announced_shutdown_leaves_no_gap(world: World) -> None:
    await world.published()
    await world.exchange.fault(kind="server_shutdown", grace_s=6)

    def replaced() -> bool:
        return "/2 carries" in world.service.text()

    await eventually(replaced, "a second connection carries the symbol")
    await eventually(lambda: _status(world, 1), "one connection is left")
    await world.published(beyond=30)
    world.assert_complete()
    assert world.log.events(GAPS, world.symbol) == []


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
        for event in world.log.events(topic, world.symbol):
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
        assert name == f"binance.{world.symbol.removesuffix('USDT')}-USDT"
        added = await stub.AddSubscription(
            pb.AddSubscriptionRequest(
                collector="binance", subscription=pb.Subscription(instrument=world.symbol)
            ),
            metadata=AS_ADMIN,
        )
        assert added.instrument == name
        first = min(world.log.trade_ids(world.symbol))
        begin = max(1, first - 30)
        operation = await stub.Backfill(
            pb.BackfillRequest(
                collector="binance", instrument=name, first_trade_id=begin, last_trade_id=last
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
        found = set(world.log.trade_ids(world.symbol))
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
                        collector="binance", instrument=name, first_trade_id=9, last_trade_id=1
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


async def test_an_outage_of_kafka_beyond_what_can_wait_loses_nothing(
    world: World, mesh: Any
) -> None:
    await world.published()
    broker = mesh.component("kafka")
    broker.stop()
    try:
        await eventually(
            lambda: "reading from the exchange pauses" in world.service.text(), "it waits"
        )
        assert "Kafka at" in world.service.text()
        made = (await world.exchange.truth(world.symbol))["lastTradeId"]
        # The venue cuts who doesn't read.
        await world.exchange.fault(kind="disconnect")

        async def has_moved() -> bool:
            return (await world.exchange.truth(world.symbol))["lastTradeId"] > made + 40

        await eventually(has_moved, "trades are made that nobody reads")
    finally:
        broker.start()
    await eventually(lambda: "reading goes on" in world.service.text(), "Kafka is back")
    await world.published(beyond=20)
    await eventually(lambda: is_whole(world.log.trade_ids(world.symbol)), "all is repaired")
    world.assert_complete()


def is_whole(ids: list[int]) -> bool:
    return len(set(ids)) == max(ids) - min(ids) + 1


async def test_an_unknown_symbol_is_told_and_ends_the_start(
    kafka: dict[str, str], tmp_path: Path
) -> None:
    exchange = Simulator(tmp_path / "exchange", {"symbols": "BTCUSDT"})
    await exchange.start()
    environment = kafka | {
        "COINMESH_BINANCE_WS_URL": exchange.ws,
        "COINMESH_BINANCE_REST_URL": exchange.base,
        "COINMESH_BINANCE_SYMBOLS": "BTCUSDT,NOPEUSDT",
    }
    service = Service(environment, tmp_path / "log")
    service.spawn()
    try:
        assert service.process is not None
        assert await asyncio.to_thread(service.process.wait, SECONDS) == 1
        assert "has no symbol NOPEUSDT" in service.text()
    finally:
        await service.end(signal.SIGKILL)
        await exchange.end(signal.SIGKILL)
