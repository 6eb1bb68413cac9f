"""Keeps a live book wide enough: the venue's snapshots are cut after some levels per side.

Levels beyond a cut are unknown until they change, so a market that moves there would have an
incomplete book. The book is therefore fetched again before the market reaches the cut, and joined
with the deltas received since.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from collector_binance.core.messages import BookSnapshot

# Divisor: the book is fetched again when 1/4 of the way to the cut remains.
_REST_OF_WAY: Final = 4
KEPT_DELTAS: Final = 600
_REST_LIMITS: Final = frozenset({5, 10, 20, 50, 100, 500, 1000, 5000})

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Margins:
    """Best prices at which a book becomes too narrow; None for a side that is fully known."""

    bid: int | None = None
    ask: int | None = None

    @classmethod
    def of(cls, low: int | None, high: int | None, bid: int, ask: int) -> Margins:
        """Return the margins of levels known from `low` to `high` with best prices `bid` and `ask`.

        A side whose best price is already past the cut has no margin.
        """
        return cls(
            None if low is None or bid <= low else low + (bid - low) // _REST_OF_WAY,
            None if high is None or not 0 < ask < high else high - (high - ask) // _REST_OF_WAY,
        )

    def are_crossed(self, bid: int, ask: int) -> bool:
        """Return whether the best prices are close to a cut; an empty side counts as close."""
        return (self.bid is not None and bid <= self.bid) or (
            self.ask is not None and not 0 < ask < self.ask
        )


@dataclass(slots=True)
class Renewal(Generic[D]):
    """A pending newer snapshot: the deltas after update `since`, and the snapshot once received.

    A snapshot ahead of the stream is kept until the stream has reached it.
    """

    since: int
    deltas: deque[tuple[int, D]] = field(default_factory=deque[tuple[int, D]])
    snapshot: BookSnapshot | None = None
    limit: int | None = None

    def add(self, last_id: int, delta: D) -> None:
        """Add a delta; the snapshot must cover the oldest ones, dropped beyond the limit."""
        self.deltas.append((last_id, delta))
        if len(self.deltas) > KEPT_DELTAS:
            self.since = self.deltas.popleft()[0]


def is_cut(levels: int, limit: int | None) -> bool:
    """Return whether a side of a snapshot was cut by the venue before the end of the book."""
    return levels > 0 and (levels >= limit if limit else levels in _REST_LIMITS)
