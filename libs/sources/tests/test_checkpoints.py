"""CheckpointWriter: rounds after acknowledgement, what they contain, and what they leave out."""

import asyncio
import time
from typing import Any

import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.checkpoint_pb2 import Checkpoint
from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_sources import checkpoints
from coinmesh_sources.checkpoints import CheckpointWriter
from coinmesh_sources.gaps import OpenGap
from coinmesh_sources.inputs import Position, Writer


class Source:
    """An engine, its publisher and its producer; acknowledgements wait for `acknowledged`."""

    def __init__(self) -> None:
        self.sequence = 17
        self.streams: dict[str, Position] = {}
        self.acknowledged = asyncio.Event()
        self.acknowledged.set()
        self.asked = asyncio.Event()
        self.sent: list[Checkpoint] = []

    def positions(self) -> list[Position]:
        return list(self.streams.values())

    def move(self, stream: str, last_id: int, *gaps: OpenGap) -> None:
        self.streams[stream] = Position(stream, "v.A", "A", last_id, last_id * 10, list(gaps))

    async def delivered(self) -> None:
        self.asked.set()
        await self.acknowledged.wait()

    async def produce(self, topic: str, key: bytes, value: bytes) -> None:
        assert topic == topics.CHECKPOINTS.name
        checkpoint = Checkpoint.FromString(framing.split(value)[1])
        assert key == f"v/{checkpoint.stream}".encode()
        self.sent.append(checkpoint)

    deliver = produce

    def round(self) -> list[tuple[str, int]]:
        """The streams and ids written since the last call."""
        written, self.sent = self.sent, []
        return [(each.stream, each.last_id) for each in written]


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def writer(source: Source) -> CheckpointWriter:
    part: Any = source
    return CheckpointWriter(Writer("v", "collector-v", "v/s", 4), 1, part, part, part)


async def test_round_ends_with_its_marker(source: Source, writer: CheckpointWriter) -> None:
    source.move("trade:A", 5)
    source.move("book:A", 9)
    await writer.write()
    assert all(each.epoch == 4 and each.session == "v/s" for each in source.sent)
    assert source.sent[0].event_time == 50
    assert source.round() == [("trade:A", 5), ("book:A", 9), ("round:collector-v", 0)]


async def test_round_has_only_what_changed(source: Source, writer: CheckpointWriter) -> None:
    source.move("trade:A", 5)
    source.move("trade:B", 1)
    await writer.write()
    source.round()
    await writer.write()
    assert source.round() == [], "nothing changed"
    source.move("trade:A", 6)
    await writer.write()
    assert source.round() == [("trade:A", 6), ("round:collector-v", 0)]


async def test_all_positions_are_written_again_before_compaction(
    source: Source, writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outdated process may have written later records of the same streams."""
    lag = float(topics.CHECKPOINTS.settings["min.compaction.lag.ms"]) / 1000
    assert lag > 2 * (checkpoints.REWRITE_SECONDS + checkpoints.ROUND_SECONDS)
    source.move("trade:A", 5)
    source.move("trade:B", 1)
    await writer.write()
    source.move("trade:A", 6)
    source.round()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + checkpoints.REWRITE_SECONDS + 1)
    await writer.write()
    assert source.round() == [("trade:A", 6), ("trade:B", 1), ("round:collector-v", 0)]
    await writer.write()
    assert source.round() == []


async def test_marker_is_written_without_a_position(
    source: Source, writer: CheckpointWriter
) -> None:
    await writer.write()
    assert source.round() == [("round:collector-v", 0)]


async def test_position_is_that_before_the_acknowledgement(
    source: Source, writer: CheckpointWriter
) -> None:
    """A later event may not be on the topic when the checkpoint is."""
    source.acknowledged.clear()
    source.move("trade:A", 5)
    writing = asyncio.create_task(writer.write())
    await source.asked.wait()
    source.move("trade:A", 6)
    assert source.sent == []
    source.acknowledged.set()
    await writing
    assert source.round() == [("trade:A", 5), ("round:collector-v", 0)]
    await writer.write()
    assert source.round() == [("trade:A", 6), ("round:collector-v", 0)]


async def test_gap_that_shrinks_or_is_lost_is_written(
    source: Source, writer: CheckpointWriter
) -> None:
    gap = OpenGap(
        "trade",
        6,
        9,
        cause=GapCause.GAP_CAUSE_STALL,
        detail="stalled",
        start_time=50,
        missing=[(6, 9)],
        gap_id="v.A:gap:trade:1-6",
        revision=1,
        failed_attempts=3,
        refused_ns=77,
    )
    source.move("trade:A", 10, gap)
    await writer.write()
    source.sent.clear()
    gap.fill(7)
    await writer.write()
    (saved,) = source.sent[0].open_gaps
    restored = checkpoints.open_gap("trade", saved)
    assert (restored.missing, restored.start_time) == ([(6, 6), (8, 9)], 50)
    assert restored == OpenGap(**{name: getattr(gap, name) for name in OpenGap.__slots__})
    source.sent.clear()
    gap.missing, gap.lost, gap.state = [], gap.missing, GapState.GAP_STATE_UNREPAIRABLE
    await writer.write()
    restored = checkpoints.open_gap("trade", source.sent[0].open_gaps[0])
    assert (restored.missing, restored.lost) == ([], [(6, 6), (8, 9)])
    assert restored.state == GapState.GAP_STATE_UNREPAIRABLE


async def test_checkpoint_of_many_gaps_stays_below_what_kafka_takes(
    source: Source, writer: CheckpointWriter
) -> None:
    fragmented = [(2 * number, 2 * number) for number in range(10**12, 10**12 + 30_000)]
    gaps = [
        OpenGap(
            "trade",
            10**13 + number,
            10**13 + number,
            cause=GapCause.GAP_CAUSE_BACKFILL,
            detail="x" * 10_000,
            missing=[(10**13 + number, 10**13 + number)],
            gap_id=f"binance.1000SATS-FDUSD:gap:trade:1723161600000000-{10**13 + number}",
            revision=1_723_161_600_000_000,
        )
        for number in range(1100)
    ]
    gaps[0].first, gaps[0].last, gaps[0].missing = *fragmented[0], fragmented
    source.move("trade:A", 10**13, *gaps)
    await writer.write()
    checkpoint = source.sent[0]
    assert checkpoint.ByteSize() < topics.MAX_MESSAGE_BYTES // 4
    restored = checkpoints.open_gap("trade", checkpoint.open_gaps[0])
    assert restored.missing == [(fragmented[0][0], fragmented[-1][1])]


async def test_subscription_has_a_record_of_its_own(
    source: Source, writer: CheckpointWriter
) -> None:
    await writer.subscription("v.A", "A", subscribed=False)
    (checkpoint,) = source.sent
    assert (checkpoint.stream, checkpoint.symbol) == ("subscription:A", "A")
    assert checkpoint.subscribed is False
