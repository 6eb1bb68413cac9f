"""A collector process on real Kafka with a simulated exchange of its own, for tests."""

from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pyarrow as pa
import pyarrow.parquet as pq

from coinmesh_contracts import topics
from coinmesh_simulators.testing import Simulator
from coinmesh_sources.digest import parse
from coinmesh_sources.testing import CollectorProcess, Log, eventually
from collector_binance.main import main
from meshkit.authz import User, stated

TRADES, GAPS, DEAD = topics.TRADES.name, topics.GAPS.name, topics.DEAD_LETTERS.name
AS_ADMIN = stated(User("test", ("admin",), "free"))


class World:
    """A simulated exchange, a collector for it, and Kafka, seen from one symbol of the exchange."""

    def __init__(
        self,
        symbol: str,
        exchange: Simulator,
        service: CollectorProcess,
        log: Log,
        edge: grpc.ChannelCredentials,
    ) -> None:
        self.symbol, self.exchange, self.service, self.log = symbol, exchange, service, log
        self._edge = edge

    def channel(self) -> grpc.aio.Channel:
        """To the collector, as Envoy comes; each call needs `AS_ADMIN`."""
        return grpc.aio.secure_channel(self.service.address, self._edge)

    @property
    def instrument(self) -> str:
        return f"binance.{self.symbol.removesuffix('USDT')}-USDT"

    @property
    def trade_ids(self) -> list[int]:
        """The ids of the symbol's trades, in the topic's order."""
        return [event.trade_id for event in self.log.events(TRADES, self.instrument)]

    @property
    def stream(self) -> str:
        return self.symbol.lower()

    async def published(self, beyond: int = 0) -> int:
        """Wait for the trade that the exchange made last, or `beyond` more; its id."""
        last = (await self.exchange.truth(self.symbol))["lastTradeId"] + beyond

        def is_there() -> bool:
            return max(self.trade_ids, default=0) >= last

        await eventually(is_there, f"trade {last} of {self.symbol} is on the topic")
        return last

    async def gap(self, channel: str, state: int, cause: int) -> Any:
        """Wait for a gap with that state and cause."""

        def found() -> Any:
            gaps = self.log.gaps(self.instrument, channel).values()
            return next((g for g in gaps if (g.state, g.cause) == (state, cause)), None)

        return await eventually(found, f"a {channel} gap with state {state} and cause {cause}")

    def beside(self, symbol: str) -> "World":
        """The same exchange and collector, seen from another symbol."""
        return World(symbol, self.exchange, self.service, self.log, self._edge)

    def snapshots(self) -> int:
        """How often the order book was read over REST."""
        target = f"GET /api/v3/depth?symbol={self.symbol}&"
        read = self.log.read(topics.FRAMES.name)
        batches = [parse(topics.FRAMES.name, message.value()) for message in read]
        return sum(frame.context.startswith(target) for each in batches for frame in each.frames)

    async def faults_applied(self) -> None:
        """Wait until each fault with a count took effect that often."""

        async def all_applied() -> bool:
            reports = await self.exchange.faults()
            return all(each["applied"] == each["count"] for each in reports if each["count"])

        await eventually(all_applied, "each fault took effect as often as requested")

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

    async def repaired(self, after: int = 0) -> None:
        """Wait until no trade up to now is missing, and assert that none is there twice.

        The exchange's history lags behind its stream; trades that follow may be missing for now.
        """
        last = max(self.trade_ids)

        def is_complete() -> bool:
            ids = {number for number in self.trade_ids if after < number <= last}
            return len(ids) == last - min(ids) + 1

        await eventually(is_complete, f"all trades of {self.symbol} up to {last} are repaired")
        self.assert_unique(after)

    def assert_complete(self, after: int = 0) -> None:
        """Assert that no trade is missing, and none is there twice: without faults at any time."""
        ids = self.assert_unique(after)
        assert ids == set(range(min(ids), max(ids) + 1))

    def assert_unique(self, after: int = 0) -> set[int]:
        """Assert that no trade is there twice, and return the ids."""
        ids = [number for number in self.trade_ids if number > after]
        repeated = [number for number, count in Counter(ids).items() if count > 1]
        assert repeated == []
        return set(ids)
