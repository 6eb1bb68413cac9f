"""Keeps a live book wide enough: the venue's snapshots are cut after some levels a side.

What lies beyond a cut is unknown until it changes, so a market that moves there would find a book
with holes. Before it gets there the book is read anew, and joined with the deltas that came since.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from collector_binance.core.messages import BookSnapshot

# The rest of the way to the cut at which the book is read anew.
_REST_OF_WAY: Final = 4
KEPT_DELTAS: Final = 600
_REST_LIMITS: Final = frozenset({5, 10, 20, 50, 100, 500, 1000, 5000})

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Margins:
    """Best prices at which a book becomes too narrow; None for a side that is known whole."""

    bid: int | None = None
    ask: int | None = None

    @classmethod
    def of(cls, low: int | None, high: int | None, bid: int, ask: int) -> Margins:
        """For levels known from `low` to `high`, while `bid` and `ask` are the best prices.

        A side whose best price is already past the cut has no margin left to watch.
        """
        return cls(
            None if low is None or bid <= low else low + (bid - low) // _REST_OF_WAY,
            None if high is None or not 0 < ask < high else high - (high - ask) // _REST_OF_WAY,
        )

    def are_crossed(self, bid: int, ask: int) -> bool:
        """Whether the best prices have come close to a cut; an empty side has."""
        return (self.bid is not None and bid <= self.bid) or (
            self.ask is not None and not 0 < ask < self.ask
        )


@dataclass(slots=True)
class Renewal(Generic[D]):
    """A newer snapshot that is wanted: the deltas after update `since`, and it once it has come.

    It may be ahead of the stream; it is then kept until the stream has reached it.
    """

    since: int
    deltas: deque[tuple[int, D]] = field(default_factory=deque[tuple[int, D]])
    snapshot: BookSnapshot | None = None
    limit: int | None = None

    def add(self, last_id: int, delta: D) -> None:
        """Keep a delta; the oldest is forgotten, and a snapshot then has to cover it."""
        self.deltas.append((last_id, delta))
        if len(self.deltas) > KEPT_DELTAS:
            self.since = self.deltas.popleft()[0]


def is_cut(levels: int, limit: int | None) -> bool:
    """Whether a side of a snapshot ends where the venue stopped, not where the book ends."""
    return levels > 0 and (levels >= limit if limit else levels in _REST_LIMITS)
