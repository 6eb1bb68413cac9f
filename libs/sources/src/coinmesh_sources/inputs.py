"""Inputs and outputs of a collector's engine, and the protocol that every engine follows.

Every input has a place in the session's order and is recorded before its events are sent. The same
inputs in the same order give the same events, so a recorded session replays; an engine reads no
clock and does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.gaps import OpenGap, Record

__all__ = ["Engine", "Input", "Position", "Process", "Record", "Writer"]

Process = Callable[[bytes, int, str], list[Record]]
"""Takes a message, its receive time (ns) and its connection; returns the events that it causes."""


@dataclass(slots=True)
class Input:
    """One input of an engine.

    Attributes:
        kind: What it is.
        connection: Where it came from.
        receive_ns: When, nanoseconds since the epoch.
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
    """Who writes a source's records.

    Attributes:
        source: The source, as in each event.
        collector: The service's name.
        session: The run: its connections' names begin with it.
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
        stream: "<channel>:<symbol>", or the source's own name of the stream.
        instrument: The canonical instrument; empty where none applies.
        symbol: The source's symbol.
        last_id: The last native id.
        last_time: That event's time by the source's clock, microseconds; None when unknown.
        gaps: Gaps that are open or were given up, oldest first.
        subscribed: Whether the stream is collected from there on; False after it was removed, and
            then what comes later is no gap.
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
        sequence: Place of the next input in the session's order.
        process: Processes one stream message: the hot path.
        commands: What the service must do (requests, replies); the caller removes them.
    """

    sequence: int
    process: Process
    commands: list[Any]

    def apply(self, given: Input) -> list[Record]:
        """Process any input; the events that it causes."""
        ...

    @property
    def deadline(self) -> int | None:
        """The next time (ns) at which a TICK input changes the state; None without one."""
        ...

    def positions(self) -> Iterable[Position]:
        """Where every stream is now."""
        ...
