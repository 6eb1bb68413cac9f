"""What the core wants done outside: the service does it and feeds the result back as input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """The whole book of a symbol over REST.

    `urgent` when readers see a stale book meanwhile; `attempt` counts answers that were too old.
    """

    symbol: str
    urgent: bool
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class FetchTrades:
    """Up to 1,000 trades of a symbol from an id on, over REST."""

    symbol: str
    first_id: int
    limit: int


@dataclass(frozen=True, slots=True)
class ControlReply:
    """A connection's answer to a control message, or serverShutdown, as received."""

    connection: str
    frame: bytes


Command = FetchSnapshot | FetchTrades | ControlReply
