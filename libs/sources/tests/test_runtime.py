"""Collector: order and recording of inputs, also of those that fail, and ticks without Kafka."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import Frame, FrameBatch, FrameKind
from coinmesh_sources import collector as runtime
from coinmesh_sources.checkpoints import Saved
from coinmesh_sources.collector import Collector
from coinmesh_sources.inputs import Input, Record
from coinmesh_sources.liveness import Coverage
from coinmesh_sources.recorder import Element
from coinmesh_sources.settings import SourceSettings
from meshkit.metrics import Metrics
from meshkit.registry import SchemaIds
from meshkit.tracing import Tracing

TRADES = topics.TRADES.name


class Engine:
    """Makes a trade of each input, but fails for `bad` ones; a tick is always due."""

    deadline = 0

    def __init__(self) -> None:
        self.sequence = 0
        self.commands: list[str] = []
        self.ticks = asyncio.Event()

    def process(self, frame: bytes, receive_ns: int, connection: str) -> list[Record]:
        if frame == b"bad":
            raise RuntimeError("a fault of ours")
        self.sequence += 1
        return [(TRADES, b"k", frame)]

    def apply(self, given: Input) -> list[Record]:
        if given.kind == FrameKind.FRAME_KIND_TICK:
            self.ticks.set()
        return self.process(given.payload, given.receive_ns, given.connection)

    def positions(self) -> Sequence[Any]:
        return ()


class Source(Collector[Any]):
    """A collector without a source and without Kafka."""

    url = "source"

    def __init__(self, most: int) -> None:
        settings = SourceSettings(
            kafka_bootstrap_servers="127.0.0.1:9",
            schema_registry_url="http://127.0.0.1:9",
            service_name="collector-v",
        )
        super().__init__(
            settings,
            Tracing(settings),
            source="v",
            topics_written=(topics.TRADES,),
            max_pending=most,
        )
        self.register(Metrics())
        self.epoch = 1
        self.paused: list[bool] = []
        ids = SchemaIds({topic.name: 1 for topic in topics.ALL})
        self._wire(*self.create(ids), ids, cast(Any, None))

    def create(self, ids: SchemaIds) -> tuple[Engine, Element | None]:
        return Engine(), None

    async def open(self) -> None: ...

    async def restore(self, saved: Saved) -> list[bytes]:
        return []

    async def collect(self) -> None: ...

    async def disconnect(self) -> None: ...

    def execute(self, command: Any) -> None: ...

    def pause(self, paused: bool) -> None:
        self.paused.append(paused)

    def coverage(self) -> list[Coverage]:
        return []

    def recorded(self) -> list[Frame]:
        """Every input so far, in the session's order."""
        assert self._recorder is not None
        batches = [FrameBatch.FromString(framing.split(v)[1]) for _, _, v in self._recorder.flush()]
        frames = [frame for batch in batches for frame in batch.frames]
        return sorted(frames, key=lambda frame: frame.sequence)


async def test_input_that_fails_is_recorded_and_counted() -> None:
    """Otherwise the archived session could not be read."""
    collector = Source(most=100)
    collector.frame(b"1", 1, "v/s/1")
    with pytest.raises(RuntimeError):
        collector.frame(b"bad", 2, "v/s/1")
    kind = FrameKind.FRAME_KIND_SUBSCRIPTION
    with pytest.raises(RuntimeError):
        collector.give(Input(kind, "v/s/0", 3, b"bad"))
    collector.frame(b"4", 4, "v/s/1")
    assert collector.engine.sequence == 4
    recorded = [(frame.sequence, frame.payload) for frame in collector.recorded()]
    assert recorded == [(0, b"1"), (1, b"bad"), (2, b"bad"), (3, b"4")]


async def test_no_tick_is_given_while_kafka_accepts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "TICK_SECONDS", 0.0)
    collector = Source(most=1)
    collector.frame(b"1", 1, "v/s/1")
    assert (collector.is_backed_up, collector.paused) == (True, [True])
    waking = asyncio.create_task(collector._wake())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not collector.engine.ticks.is_set()
    assert collector._publisher is not None
    collector._publisher.is_backed_up = False
    async with asyncio.timeout(60):
        await collector.engine.ticks.wait()
    waking.cancel()
    await asyncio.wait({waking})
