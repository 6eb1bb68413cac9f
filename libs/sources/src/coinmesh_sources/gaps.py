"""Gaps of one instrument's streams: the missing ids, and gap events with increasing revisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapCause, GapState

Record = tuple[str, bytes, bytes]
"""Topic, key and framed value."""

Span = tuple[int, int]
"""First and last id, both inclusive."""


def count(spans: Iterable[Span]) -> int:
    """Return the number of ids in spans."""
    return sum(last - first + 1 for first, last in spans)


def split(spans: Iterable[Span], within: Span) -> tuple[list[Span], list[Span]]:
    """Return the parts of spans inside a span, and the parts outside it."""
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


def missing_spans(span: Span, present: Iterable[int]) -> list[Span]:
    """Return the ids of a span that are not present, as spans."""
    first, last = span
    spans: list[Span] = []
    for number in sorted(each for each in set(present) if first <= each <= last):
        if number > first:
            spans.append((first, number - 1))
        first = number + 1
    if first <= last:
        spans.append((first, last))
    return spans


def without(spans: Iterable[Span], known: Iterable[Span]) -> list[Span]:
    """Return the parts of spans that no known span covers."""
    remaining = list(spans)
    for span in known:
        _, remaining = split(remaining, span)
    return remaining


@dataclass(slots=True)
class OpenGap:
    """One gap and its missing ids.

    Attributes:
        channel: The stream.
        first: First missing id.
        last: Last missing id, inclusive.
        cause: The cause, if known.
        detail: A one-line description for operators.
        start_time: The source's time (µs) of the last event before the gap.
        end_time: The source's time (µs) of the first event after it.
        missing: Ids not received yet that can still be requested, in order.
        lost: Ids that the source no longer provides, in order.
        failed_attempts: Failed repair attempts since the last successful one.
        refused_ns: Time of the first of these failures; 0 if there is none.
        retry_ns: Earliest time of the next attempt.
        gap_id: Deterministic id; set with the first record.
        revision: Revision of the last record written.
        state: State of the repair.
    """

    channel: str
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
        """Return the number of ids that were received after the gap was opened."""
        return self.last - self.first + 1 - count(self.missing) - count(self.lost)

    def extend(self, last: int) -> None:
        """Extend the gap to `last` and count all its ids as missing."""
        self.last = max(self.last, last)
        self.missing = [(self.first, self.last)]

    def fill(self, number: int) -> bool:
        """Mark an id as received; return False if it was not missing."""
        for spans in (self.missing, self.lost):
            for index, (first, last) in enumerate(spans):
                if first <= number <= last:
                    rest = [(first, number - 1), (number + 1, last)]
                    spans[index : index + 1] = [span for span in rest if span[0] <= span[1]]
                    return True
        return False


class GapLedger:
    """The open gaps of one instrument, and the records of their changes.

    Args:
        source: The source, as in each event.
        instrument: The canonical instrument.
        symbol: The source's symbol.
        header: The framing header of `ingest.gaps.v1`.
        timed: Channels whose spans are times (µs) instead of ids.
        epoch: Lease epoch of the writer.

    Attributes:
        open_gaps: Open gaps by gap id.
        opened: Number of gaps opened, by channel.
    """

    def __init__(
        self,
        source: str,
        instrument: str,
        symbol: str,
        header: bytes,
        *,
        timed: frozenset[str] = frozenset(),
        epoch: int = 0,
    ) -> None:
        self._source, self._instrument, self._symbol = source, instrument, symbol
        self._header, self._key = header, instrument.encode()
        self._timed, self._epoch = timed, epoch
        self.open_gaps: dict[str, OpenGap] = {}
        self.opened: dict[str, int] = {}

    def open(
        self,
        channel: str,
        span: Span,
        receive_ns: int,
        out: list[Record],
        *,
        cause: GapCause.ValueType,
        detail: str,
        times: tuple[int | None, int | None] = (None, None),
    ) -> OpenGap:
        """Open a gap in state OPEN with all its ids missing."""
        gap = self._new(channel, span, cause, detail, times)
        self._write(gap, receive_ns, out)
        self.open_gaps[gap.gap_id] = gap
        return gap

    def close(
        self,
        gap: OpenGap,
        state: GapState.ValueType,
        receive_ns: int,
        out: list[Record],
        detail: str | None = None,
    ) -> None:
        """Close a gap as repaired, resynced or unrepairable."""
        gap.state = state
        gap.detail = detail or gap.detail
        self.open_gaps.pop(gap.gap_id, None)
        self._write(gap, receive_ns, out)

    def update(self, gap: OpenGap, receive_ns: int, out: list[Record], detail: str) -> None:
        """Write a new revision of an open gap."""
        gap.detail = detail
        self._write(gap, receive_ns, out)

    def note(
        self,
        channel: str,
        span: Span,
        receive_ns: int,
        out: list[Record],
        *,
        cause: GapCause.ValueType,
        detail: str,
        times: tuple[int | None, int | None],
    ) -> None:
        """Write a gap that can't be repaired."""
        gap = self._new(channel, span, cause, detail, times)
        gap.state = GapState.GAP_STATE_UNREPAIRABLE
        self._write(gap, receive_ns, out)

    def reopen(self, gap: OpenGap, receive_ns: int, out: list[Record], detail: str) -> None:
        """Resume the repair of a gap that was given up: its lost ids are missing again."""
        gap.missing, gap.lost = sorted([*gap.missing, *gap.lost]), []
        gap.state, gap.detail = GapState.GAP_STATE_OPEN, detail
        self._write(gap, receive_ns, out)
        self.open_gaps[gap.gap_id] = gap

    def restore(self, gap: OpenGap, receive_ns: int, out: list[Record]) -> None:
        """Continue a gap of an earlier run; write the first record of a gap that has none."""
        if gap.revision == 0:
            self.opened[gap.channel] = self.opened.get(gap.channel, 0) + 1
            self._write(gap, receive_ns, out)
        self.open_gaps[gap.gap_id] = gap

    def _new(
        self,
        channel: str,
        span: Span,
        cause: GapCause.ValueType,
        detail: str,
        times: tuple[int | None, int | None],
    ) -> OpenGap:
        self.opened[channel] = self.opened.get(channel, 0) + 1
        return OpenGap(
            channel,
            *span,
            cause=cause,
            detail=detail,
            start_time=times[0],
            end_time=times[1],
            missing=[span],
        )

    def _write(self, gap: OpenGap, receive_ns: int, out: list[Record]) -> None:
        # Must grow across restarts: the last revision written before a crash may be unknown.
        gap.revision = max(gap.revision + 1, receive_ns // 1_000)
        if not gap.gap_id:
            opened = f"{gap.revision}-{gap.first}"
            gap.gap_id = f"{self._instrument}:gap:{gap.channel}:{opened}"
        event = Gap(
            event_id=f"{gap.gap_id}:{gap.revision}",
            event_time=gap.start_time,
            receive_time=receive_ns,
            source=self._source,
            type=EventType.EVENT_TYPE_GAP,
            instrument=self._instrument,
            symbol=self._symbol,
            gap_id=gap.gap_id,
            revision=gap.revision,
            channel=gap.channel,
            start_time=gap.start_time,
            end_time=gap.end_time,
            cause=gap.cause,
            state=gap.state,
            repaired_count=gap.repaired,
            detail=gap.detail,
            failed_attempts=gap.failed_attempts,
            epoch=self._epoch,
        )
        if gap.channel in self._timed:
            event.time.start, event.time.end = gap.first, gap.last
        else:
            event.ids.first, event.ids.last = gap.first, gap.last
        out.append((topics.GAPS.name, self._key, self._header + event.SerializeToString()))
