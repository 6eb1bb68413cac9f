"""States and parts of an order book, and the observer interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from collector_binance.core.audit import Audit
from collector_binance.core.levels import Side

if TYPE_CHECKING:
    from collector_binance.core.book import Book


class BookState(StrEnum):
    """State of an order book."""

    IDLE = "idle"
    BUFFERING = "buffering"
    SYNCED = "live"
    STALE = "stale"


@dataclass(slots=True)
class Parts:
    """The parts of a book; the compiled core has its own."""

    bids: Side = field(default_factory=lambda: Side(is_bid=True))
    asks: Side = field(default_factory=lambda: Side(is_bid=False))
    audit: Audit = field(default_factory=Audit)


class BookObserver:
    """Receives the levels and updates of a book; for `replay --book-top`."""

    def on_levels(self, bids: bytes, asks: bytes) -> None:
        """Handle levels as printed by the venue, as JSON, before they take effect."""

    def on_applied(self, book: Book) -> None:
        """Handle a delta after it was applied."""


def published_range(
    trusted: tuple[int | None, int | None], bids: Side, asks: Side, levels: int
) -> tuple[int | None, int | None]:
    """Return the price range within which a book is known if only its best levels are published."""
    low, high = trusted
    if len(bids) > levels:
        low = max(bids.top(levels)[0][-1], low or 0)
    if len(asks) > levels:
        price = asks.top(levels)[0][-1]
        high = price if high is None else min(price, high)
    return low, high
