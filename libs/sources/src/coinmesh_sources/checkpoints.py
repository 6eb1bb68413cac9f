"""Checkpoints: the position of each stream of a source, on a compacted topic.

A round writes all positions that changed, after Kafka has acknowledged the events before them, and
ends with a marker that carries the time of the snapshot. Events published after a round are in the
tail of the source's topics since the marker, so the cost of a start depends on the number of
streams, not on the length of their history. Subscription changes made at run time have separate
records.

If a stream has several records, the one of the newest writer is valid: the highest epoch, and the
later session of two processes that started together with the same epoch. A later record of an
outdated writer would replace it in the compacted topic, so each writer rewrites all its positions
well within the time for which the topic is not compacted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar, cast

from confluent_kafka import Message
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Event

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1 import checkpoint_pb2 as pb
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_sources.gaps import OpenGap, Record, count
from coinmesh_sources.inputs import Engine, Position, Writer
from coinmesh_sources.publisher import Publisher
from meshkit.offsets import Since
from meshkit.producer import Producer
from meshkit.settings import KafkaSettings
from meshkit.tails import read_to_end

_log = logging.getLogger(__name__)

ROUND_SECONDS: Final = 5.0
REWRITE_SECONDS: Final = 20.0
"""Interval after which a round contains all positions, changed or not; less than half of the
topic's min.compaction.lag.ms."""

MARGIN: Final = timedelta(seconds=10)
"""Allowed clock difference between collector and brokers; a larger one causes duplicates."""

MAX_SPANS: Final = 20_000
"""Maximum parts of gaps in one checkpoint; beyond it each gap is saved as a single span."""

MAX_DETAIL: Final = 200
"""Maximum characters of a gap's detail in a checkpoint."""

# Longer than most Kafka outages; a new process has a new certificate.
STALL_SECONDS: Final = 600.0
_MARKER: Final = "round:"
_SUBSCRIPTION: Final = "subscription:"
E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class Saved:
    """State restored from earlier runs of a source.

    Attributes:
        streams: The newest checkpoint of each stream.
        subscriptions: Symbols that were added (True) or removed (False) at run time.
        since: Events after the last round were published after this time; None without a round.
        epoch: The highest epoch of a writer; 0 without one.
    """

    streams: dict[str, pb.Checkpoint] = field(default_factory=dict[str, pb.Checkpoint])
    subscriptions: dict[str, bool] = field(default_factory=dict[str, bool])
    since: datetime | None = None
    epoch: int = 0


async def read(settings: KafkaSettings, source: str, collector: str) -> Saved:
    """Read the checkpoints of a source; wait for Kafka.

    Args:
        settings: Kafka connection.
        source: The source's name.
        collector: The service's name: round markers of another collector are ignored.

    Raises:
        FailedPrecondition: The topic is missing.
    """
    newest: dict[str, pb.Checkpoint] = {}
    prefix = f"{source}/".encode()
    client = client_of(collector)
    async for message in records(settings, client, topics.CHECKPOINTS, None):
        if not (message.key() or b"").startswith(prefix):
            continue
        checkpoint = parsed(message, pb.Checkpoint)
        if checkpoint is None:
            continue
        if _writer(checkpoint) >= _writer(newest.get(checkpoint.stream, checkpoint)):
            newest[checkpoint.stream] = checkpoint
    saved = Saved(epoch=max((each.epoch for each in newest.values()), default=0))
    marker = newest.get(f"{_MARKER}{collector}")
    if marker is not None:
        saved.since = datetime.fromtimestamp(marker.receive_time / 1e9, UTC) - MARGIN
    for stream, checkpoint in newest.items():
        if stream.startswith(_SUBSCRIPTION):
            saved.subscriptions[checkpoint.symbol] = checkpoint.subscribed
        elif not stream.startswith(_MARKER):
            saved.streams[stream] = checkpoint
    return saved


def _writer(checkpoint: pb.Checkpoint) -> tuple[int, str]:
    """Return the sort key of a writer; sessions of a source begin with their start time."""
    return checkpoint.epoch, checkpoint.session


def client_of(collector: str) -> str:
    """Return the Kafka client id of a collector that reads its earlier records."""
    return f"{collector}-checkpoint"


async def records(
    settings: KafkaSettings, client_id: str, topic: topics.Topic, since: datetime | None
) -> AsyncGenerator[Message, None]:
    """Yield a topic's records from a time (None: its beginning) to its present end."""
    start = "beginning" if since is None else Since(since)
    batches = read_to_end(
        settings, topic.name, start, client_id=client_id, stall_seconds=STALL_SECONDS
    )
    async for batch in batches:
        for message in batch:
            yield message


def parsed(message: Message, kind: type[E]) -> E | None:
    """Return the event in a record; log a warning and return None if it can't be parsed."""
    try:
        return kind.FromString(framing.split(cast(bytes, message.value()))[1])
    except (framing.FramingError, DecodeError) as error:
        where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        _log.warning("%s is skipped: %s", where, error)
        return None


def open_gap(channel: str, saved: pb.OpenGap) -> OpenGap:
    """Return a checkpoint's gap, due at once; the time at which its repair is given up is kept."""
    spans = list(zip(saved.missing_first, saved.missing_last, strict=True))
    return OpenGap(
        channel=channel,
        first=saved.first,
        last=saved.last,
        cause=cast(GapCause.ValueType, saved.cause),
        detail=saved.detail,
        start_time=saved.start_time if saved.HasField("start_time") else None,
        end_time=saved.end_time if saved.HasField("end_time") else None,
        missing=[] if saved.unrepairable else spans,
        lost=spans if saved.unrepairable else [],
        failed_attempts=saved.failed_attempts,
        refused_ns=saved.refused_since,
        gap_id=saved.gap_id,
        revision=saved.revision,
        state=GapState.GAP_STATE_UNREPAIRABLE if saved.unrepairable else GapState.GAP_STATE_OPEN,
    )


class CheckpointWriter:
    """Writes a source's checkpoints; `run` is a background task.

    Args:
        writer: Identity of this run.
        schema_id: The registry's id of the topic's schema.
        engine: Provides the positions.
        publisher: Publishes the events that precede a checkpoint.
        producer: The producer.
    """

    def __init__(
        self,
        writer: Writer,
        schema_id: int,
        engine: Engine,
        publisher: Publisher,
        producer: Producer,
    ) -> None:
        self._writer = writer
        self._header = framing.header(schema_id)
        self._engine, self._publisher, self._producer = engine, publisher, producer
        self._written: dict[str, object] = {}
        self._next_rewrite = 0.0
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Write a round every few seconds until cancelled."""
        while True:
            # A round in progress is completed even if the service stops.
            await asyncio.shield(self.write())
            await asyncio.sleep(ROUND_SECONDS)

    async def write(self) -> None:
        """Write the positions that have changed since the last round."""
        async with self._turn:
            now, sequence = time.time_ns(), self._engine.sequence
            is_rewrite = time.monotonic() >= self._next_rewrite
            changed = {
                each.stream: (each, state)
                for each in self._engine.positions()
                if (state := _state(each)) != self._written.get(each.stream) or is_rewrite
            }
            if not changed and not is_rewrite:
                return
            if is_rewrite:
                self._next_rewrite = time.monotonic() + REWRITE_SECONDS
            # Serialized now because positions change while the acknowledgements are awaited.
            pending = [self._record(position, sequence, now) for position, _ in changed.values()]
            await self._publisher.delivered()
            for record in pending:
                await self._producer.produce(*record)
            marker = self._checkpoint(f"{_MARKER}{self._writer.collector}", sequence, now)
            await self._producer.deliver(*self._framed(marker))
            self._written |= {stream: state for stream, (_, state) in changed.items()}

    async def subscription(self, instrument: str, symbol: str, subscribed: bool) -> None:
        """Record a subscription change made at run time; return once acknowledged."""
        stream = f"{_SUBSCRIPTION}{symbol}"
        checkpoint = self._checkpoint(stream, self._engine.sequence, time.time_ns())
        checkpoint.instrument, checkpoint.symbol = instrument, symbol
        checkpoint.subscribed = subscribed
        await self._producer.deliver(*self._framed(checkpoint))

    def _record(self, position: Position, sequence: int, now: int) -> Record:
        checkpoint = self._checkpoint(position.stream, sequence, now)
        checkpoint.instrument, checkpoint.symbol = position.instrument, position.symbol
        checkpoint.last_id, checkpoint.subscribed = position.last_id, position.subscribed
        if position.last_time is not None:
            checkpoint.event_time = position.last_time
        spans = sum(len(gap.missing) + len(gap.lost) for gap in position.gaps)
        if is_coarse := spans > MAX_SPANS:
            _log.warning(
                "%s lacks %d parts of gaps, more than a checkpoint holds: a start now would "
                "publish what is between them again",
                position.stream,
                spans,
            )
        checkpoint.open_gaps.extend(_saved(gap, is_coarse=is_coarse) for gap in position.gaps)
        return self._framed(checkpoint)

    def _checkpoint(self, stream: str, sequence: int, now: int) -> pb.Checkpoint:
        return pb.Checkpoint(
            event_id=f"{self._writer.source}:checkpoint:{stream}:{self._writer.session}:{sequence}",
            receive_time=now,
            source=self._writer.source,
            type=EventType.EVENT_TYPE_CHECKPOINT,
            stream=stream,
            session=self._writer.session,
            sequence=sequence,
            subscribed=True,
            epoch=self._writer.epoch,
        )

    def _framed(self, checkpoint: pb.Checkpoint) -> Record:
        key = f"{self._writer.source}/{checkpoint.stream}".encode()
        return topics.CHECKPOINTS.name, key, self._header + checkpoint.SerializeToString()


def _state(position: Position) -> object:
    """Return a position's comparable state; missing ids only ever decrease in number."""
    gaps = [
        (gap.gap_id, gap.revision, count(gap.missing), count(gap.lost)) for gap in position.gaps
    ]
    return position.last_id, position.subscribed, gaps


def _saved(gap: OpenGap, *, is_coarse: bool) -> pb.OpenGap:
    # Lost ids of an open gap are requested from the source once more after a restart.
    spans = sorted([*gap.missing, *gap.lost])
    if is_coarse:
        spans = [(spans[0][0], spans[-1][1])] if spans else []
    return pb.OpenGap(
        gap_id=gap.gap_id,
        revision=gap.revision,
        first=gap.first,
        last=gap.last,
        missing_first=[first for first, _ in spans],
        missing_last=[last for _, last in spans],
        cause=gap.cause,
        start_time=gap.start_time,
        end_time=gap.end_time,
        detail=gap.detail[:MAX_DETAIL],
        failed_attempts=gap.failed_attempts,
        refused_since=gap.refused_ns,
        unrepairable=gap.state == GapState.GAP_STATE_UNREPAIRABLE,
    )
