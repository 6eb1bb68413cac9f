"""Inputs and outputs of a collector's engine, and the protocol that every engine implements.

Every input has a position in the session's order and is recorded before its events are sent. An
engine reads no clock and does no I/O: the same inputs in the same order produce the same events, so
a recorded session can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.gaps import OpenGap, Record

__all__ = ["Engine", "Input", "Position", "Process", "Record", "Writer"]

Process = Callable[[bytes, int, str], list[Record]]
"""Processes a message with its receive time (ns) and connection; returns the resulting events."""


@dataclass(slots=True)
class Input:
    """One input of an engine.

    Attributes:
        kind: Kind of the input.
        connection: Connection that it came from.
        receive_ns: Receive time, nanoseconds since the epoch.
        payload: The message or body as received.
        context: REST: method and path with query; connect: URL; disconnect: the reason.
        status: REST: the HTTP status.
    """

    kind: FrameKind.ValueType
    connection: str
    receive_ns: int
    payload: bytes = b""
    context: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """Identity of the process that writes a source's records.

    Attributes:
        source: The source, as in each event.
        collector: The service's name.
        session: The run; prefix of its connection names.
        epoch: Lease epoch: higher than that of every earlier run.
    """

    source: str
    collector: str
    session: str
    epoch: int


@dataclass(slots=True)
class Position:
    """The last event of one stream, and its gaps that are not repaired.

    Attributes:
        stream: "<channel>:<symbol>", or the source's own stream name.
        instrument: The canonical instrument; empty if none applies.
        symbol: The source's symbol.
        last_id: The last native id.
        last_time: That event's time by the source's clock, microseconds; None if unknown.
        gaps: Gaps that are open or were given up, oldest first.
        subscribed: Whether the stream is collected from this position on; False after its removal:
            later events are then not a gap.
    """

    stream: str
    instrument: str
    symbol: str
    last_id: int
    last_time: int | None = None
    gaps: list[OpenGap] = field(default_factory=list)
    subscribed: bool = True


class Engine(Protocol):
    """A collector's logic: pure state machines.

    Attributes:
        sequence: Position of the next input in the session's order.
        process: Processes one stream message; this is the hot path.
        commands: Actions for the service (requests, replies); the caller removes them.
    """

    sequence: int
    process: Process
    commands: list[Any]

    def apply(self, given: Input) -> list[Record]:
        """Process any input and return the resulting events."""
        ...

    @property
    def deadline(self) -> int | None:
        """Return the next time (ns) at which a TICK input changes the state, or None."""
        ...

    def positions(self) -> Iterable[Position]:
        """Return the current position of every stream."""
        ...
