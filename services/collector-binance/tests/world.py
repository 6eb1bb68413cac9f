"""A collector process on real Kafka with a simulated exchange of its own, for tests."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from coinmesh_contracts import topics
from coinmesh_simulators.testing import Simulator
from coinmesh_sources.digest import parse
from collector_binance.main import main
from meshkit.authz import User, stated

SECONDS = 180.0
TRADES, GAPS, DEAD = topics.TRADES.name, topics.GAPS.name, topics.DEAD_LETTERS.name
AS_ADMIN = stated(User("test", ("admin",), "free"))


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
        ends = self._ends(topic)
        left = {n: end for n, end in ends.items() if self._next.get((topic, n), 0) < end}
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

    def _ends(self, topic: str) -> dict[int, int]:
        """Where each partition ends; asked again while a restarted broker leads none of them."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return {
                    number: self._consumer.get_watermark_offsets(
                        TopicPartition(topic, number), timeout=10
                    )[1]
                    for number in range(topics.BY_NAME[topic].partitions)
                }
            except KafkaException:
                assert time.monotonic() < deadline, f"not in {SECONDS:.0f} s: the ends of {topic}"
                time.sleep(0.1)

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

    def snapshots(self) -> int:
        """How often the order book was read over REST."""
        asked = f"GET /api/v3/depth?symbol={self.symbol}&"
        read = self.log.read(topics.FRAMES.name)
        batches = [parse(topics.FRAMES.name, message.value()) for message in read]
        return sum(frame.context.startswith(asked) for each in batches for frame in each.frames)

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

    async def repaired(self) -> None:
        """Wait until no trade is missing: the exchange's history lags behind its stream."""

        def is_whole() -> bool:
            ids = set(self.log.trade_ids(self.symbol))
            return len(ids) == max(ids) - min(ids) + 1

        await eventually(is_whole, f"all trades of {self.symbol} are repaired")

    def assert_complete(self) -> None:
        """No trade is missing, and none is there twice."""
        ids = self.log.trade_ids(self.symbol)
        repeated = [number for number, count in Counter(ids).items() if count > 1]
        assert repeated == []
        assert set(ids) == set(range(min(ids), max(ids) + 1))
