"""States and parts of an order book, and who observes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from collector_binance.core.audit import Audit
from collector_binance.core.levels import Side

if TYPE_CHECKING:
    from collector_binance.core.book import Book


class BookState(StrEnum):
    """Where the book stands."""

    IDLE = "idle"
    BUFFERING = "buffering"
    SYNCED = "live"
    STALE = "stale"


@dataclass(slots=True)
class Parts:
    """What a book is made of; the compiled core has its own."""

    bids: Side = field(default_factory=lambda: Side(is_bid=True))
    asks: Side = field(default_factory=lambda: Side(is_bid=False))
    audit: Audit = field(default_factory=Audit)


class BookObserver:
    """Is told what the book takes in; for `replay --book-top`."""

    def on_levels(self, bids: bytes, asks: bytes) -> None:
        """Levels as the venue prints them, as JSON, before they take effect."""

    def on_applied(self, book: Book) -> None:
        """A delta has been applied."""


def published_range(
    trusted: tuple[int | None, int | None], bids: Side, asks: Side, levels: int
) -> tuple[int | None, int | None]:
    """The prices within which a book is known when only its best levels are published."""
    low, high = trusted
    if len(bids) > levels:
        low = max(bids.top(levels)[0][-1], low or 0)
    if len(asks) > levels:
        price = asks.top(levels)[0][-1]
        high = price if high is None else min(price, high)
    return low, high
