"""Gaps: holes in a stream with their cause, span and state, as events with growing revisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapCause, GapState
from collector_binance.core.encode import Encoder, Record
from collector_binance.core.messages import Channel

Span = tuple[int, int]
"""First and last id, both inclusive."""


def count(spans: Iterable[Span]) -> int:
    """How many ids are in spans."""
    return sum(last - first + 1 for first, last in spans)


def split(spans: Iterable[Span], within: Span) -> tuple[list[Span], list[Span]]:
    """The parts of spans that are inside a span, and those that are outside."""
    low, high = within
    inside: list[Span] = []
    outside: list[Span] = []
    for first, last in spans:
        parts = (
            (outside, first, min(last, low - 1)),
            (inside, max(first, low), min(last, high)),
            (outside, max(first, high + 1), last),
        )
        for target, begin, end in parts:
            if begin <= end:
                target.append((begin, end))
    return inside, outside


@dataclass(slots=True)
class Hole:
    """One gap and what is still missing of it.

    Attributes:
        channel: The stream.
        first: First missing id.
        last: Last missing id, inclusive.
        cause: Why, as far as can be told.
        detail: One line for a person.
        start_time: The venue's time (µs) of the last event before the hole.
        end_time: The venue's time (µs) of the first event after it.
        missing: What has not been seen yet and may still come, in order.
        lost: What is believed not to be had any more, in order.
        failed_attempts: Attempts to repair it that failed since the last one that did not.
        refused_ns: When the first of them failed; 0 without one.
        retry_ns: The next attempt is not made before.
        gap_id: Deterministic identity; given with the first record.
        revision: That of the last record written.
        state: Where the repair stands.
    """

    channel: Channel
    first: int
    last: int
    cause: GapCause.ValueType
    detail: str
    start_time: int | None = None
    end_time: int | None = None
    missing: list[Span] = field(default_factory=list)
    lost: list[Span] = field(default_factory=list)
    failed_attempts: int = 0
    refused_ns: int = 0
    retry_ns: int = 0
    gap_id: str = ""
    revision: int = 0
    state: GapState.ValueType = GapState.GAP_STATE_OPEN

    @property
    def repaired(self) -> int:
        """How many of the ids have been seen after all."""
        return self.last - self.first + 1 - count(self.missing) - count(self.lost)

    def fill(self, number: int) -> bool:
        """Take an id as seen; False when it was not missing."""
        for spans in (self.missing, self.lost):
            for index, (first, last) in enumerate(spans):
                if first <= number <= last:
                    rest = [(first, number - 1), (number + 1, last)]
                    spans[index : index + 1] = [span for span in rest if span[0] <= span[1]]
                    return True
        return False


class GapLog:
    """The gaps of one instrument that are not closed, and the writing of their changes."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.open_holes: dict[str, Hole] = {}
        self.opened: dict[Channel, int] = dict.fromkeys(Channel, 0)

    def open(
        self,
        channel: Channel,
        span: Span,
        receive_ns: int,
        out: list[Record],
        *,
        cause: GapCause.ValueType,
        detail: str,
        times: tuple[int | None, int | None] = (None, None),
    ) -> Hole:
        """Begin a gap: state OPEN, all its ids missing."""
        hole = Hole(channel, *span, cause=cause, detail=detail, missing=[span])
        hole.start_time, hole.end_time = times
        self.opened[channel] += 1
        self._write(hole, receive_ns, out)
        self.open_holes[hole.gap_id] = hole
        return hole

    def close(
        self,
        hole: Hole,
        state: GapState.ValueType,
        receive_ns: int,
        out: list[Record],
        detail: str | None = None,
    ) -> None:
        """End a gap as repaired, resynced or unrepairable."""
        hole.state = state
        hole.detail = detail or hole.detail
        self.open_holes.pop(hole.gap_id, None)
        self._write(hole, receive_ns, out)

    def update(self, hole: Hole, receive_ns: int, out: list[Record], detail: str) -> None:
        """Write an open gap anew, with what has become known."""
        hole.detail = detail
        self._write(hole, receive_ns, out)

    def note(
        self,
        channel: Channel,
        span: Span,
        receive_ns: int,
        out: list[Record],
        *,
        cause: GapCause.ValueType,
        detail: str,
        times: tuple[int | None, int | None],
    ) -> None:
        """Write a gap that nothing can repair."""
        hole = Hole(channel, *span, cause=cause, detail=detail, missing=[span])
        hole.start_time, hole.end_time = times
        hole.state = GapState.GAP_STATE_UNREPAIRABLE
        self.opened[channel] += 1
        self._write(hole, receive_ns, out)

    def reopen(self, hole: Hole, receive_ns: int, out: list[Record], detail: str) -> None:
        """Take up the repair of a gap that was given up: its lost ids are missing again."""
        hole.missing, hole.lost = sorted([*hole.missing, *hole.lost]), []
        hole.state, hole.detail = GapState.GAP_STATE_OPEN, detail
        self._write(hole, receive_ns, out)
        self.open_holes[hole.gap_id] = hole

    def restore(self, hole: Hole, receive_ns: int, out: list[Record]) -> None:
        """Take over a hole that an earlier run left; one without a record gets its first."""
        if hole.revision == 0:
            self.opened[hole.channel] += 1
            self._write(hole, receive_ns, out)
        self.open_holes[hole.gap_id] = hole

    def _write(self, hole: Hole, receive_ns: int, out: list[Record]) -> None:
        # Grows over restarts, too: what was written last before a crash may be unknown.
        hole.revision = max(hole.revision + 1, receive_ns // 1_000)
        if not hole.gap_id:
            place = f"{hole.revision}-{hole.first}"
            hole.gap_id = f"{self._encoder.instrument}:gap:{hole.channel}:{place}"
        gap = Gap(
            event_time=hole.start_time,
            gap_id=hole.gap_id,
            revision=hole.revision,
            channel=hole.channel.value,
            start_time=hole.start_time,
            end_time=hole.end_time,
            cause=hole.cause,
            state=hole.state,
            repaired_count=hole.repaired if hole.channel is Channel.TRADE else 0,
            detail=hole.detail,
            failed_attempts=hole.failed_attempts,
        )
        if hole.channel is Channel.KLINE:
            gap.time.start, gap.time.end = hole.first, hole.last
        else:
            gap.ids.first, gap.ids.last = hole.first, hole.last
        out.append(self._encoder.gap(gap, receive_ns))
