"""Commands emitted by the core; the service executes them and feeds each result back as input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch the whole book of a symbol over REST.

    `urgent` while a stale book is published; `attempt` counts answers that were too old or
    unusable.
    """

    symbol: str
    urgent: bool
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class FetchTrades:
    """Fetch up to `limit` trades of a symbol from an id on, over REST."""

    symbol: str
    first_id: int
    limit: int


@dataclass(frozen=True, slots=True)
class ControlReply:
    """A connection's answer to a control message, or serverShutdown, as received."""

    connection: str
    frame: bytes


Command = FetchSnapshot | FetchTrades | ControlReply
