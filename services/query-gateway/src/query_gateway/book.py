"""An order book maintained from the events of market.books.v1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.book_update_pb2 import BOOK_UPDATE_KIND_SNAPSHOT, BookUpdate
from coinmesh_contracts.stored_trades import MAX_EXPONENT

PUBLISHED_LEVELS: Final = 1000
"""Maximum levels per side of a snapshot; levels beyond them are not known."""


class BookView(NamedTuple):
    """The best levels of a book, each (price, size) in plain decimals, best first."""

    last_update_id: int
    event_time_us: int | None
    receive_time_ns: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    stale: bool


@dataclass(slots=True)
class OrderBook:
    """One instrument's book.

    It is ready between a snapshot and the first gap in the deltas after it: a gap that the
    collector did not announce was caused by this replica, and only the next snapshot repairs it.
    While the collector itself rebuilds the book, the earlier levels are kept, marked stale.
    """

    ready: bool = False
    stale: bool = False
    last_update_id: int = 0
    event_time_us: int | None = None
    receive_time_ns: int = 0
    _bids: dict[int, int] = field(default_factory=dict[int, int])
    _asks: dict[int, int] = field(default_factory=dict[int, int])
    _low: int | None = None
    _high: int | None = None
    _price_exponent: int = 0
    _size_exponent: int = 0

    def apply(self, update: BookUpdate) -> bool:
        """Apply the next event of the topic; return False if it shows a gap before it.

        Raises:
            ValueError: It is not a valid update; the book is unchanged.
        """
        _check(update)
        if update.kind == BOOK_UPDATE_KIND_SNAPSHOT:
            self._replace(update)
            return True
        if not self.ready:
            return True
        if update.stale:
            self.stale = True
            return True
        if update.last_update_id <= self.last_update_id:
            return True  # already in the book
        if update.first_update_id > self.last_update_id + 1:
            self.ready = self.stale  # levels from before a gap are kept
            return self.stale
        price, size = self._scale(update)
        _change(self._bids, update.bid_price_units, update.bid_size_units, price, size)
        _change(self._asks, update.ask_price_units, update.ask_size_units, price, size)
        self._advance(update)
        return True

    def view(self, depth: int) -> BookView:
        """Return the best `depth` levels per side; fewer if no more are certain."""
        low, high = self._low, self._high
        bids = sorted(self._bids if low is None else (p for p in self._bids if p >= low))
        asks = sorted(self._asks if high is None else (p for p in self._asks if p <= high))
        return BookView(
            self.last_update_id,
            self.event_time_us,
            self.receive_time_ns,
            self._levels(self._bids, bids[: -depth - 1 : -1]),
            self._levels(self._asks, asks[:depth]),
            self.stale,
        )

    def _replace(self, update: BookUpdate) -> None:
        self._bids = dict(zip(update.bid_price_units, update.bid_size_units, strict=True))
        self._asks = dict(zip(update.ask_price_units, update.ask_size_units, strict=True))
        self._price_exponent = update.price_exponent
        self._size_exponent = update.size_exponent
        self._low = update.trusted_low_units if update.HasField("trusted_low_units") else None
        self._high = update.trusted_high_units if update.HasField("trusted_high_units") else None
        if len(self._bids) >= PUBLISHED_LEVELS:
            lowest = min(self._bids)
            self._low = lowest if self._low is None else max(self._low, lowest)
        if len(self._asks) >= PUBLISHED_LEVELS:
            highest = max(self._asks)
            self._high = highest if self._high is None else min(self._high, highest)
        self.ready = True
        self._advance(update)

    def _scale(self, update: BookUpdate) -> tuple[int, int]:
        """Return the factors that convert an update's prices and sizes to the book's exponents.

        Exponents differ only if a value exceeds 64 bits; a finer exponent becomes the book's.
        """
        price = update.price_exponent - self._price_exponent
        size = update.size_exponent - self._size_exponent
        if price < 0 or size < 0:
            prices, sizes = 10 ** max(-price, 0), 10 ** max(-size, 0)
            self._bids = {p * prices: s * sizes for p, s in self._bids.items()}
            self._asks = {p * prices: s * sizes for p, s in self._asks.items()}
            self._low = None if self._low is None else self._low * prices
            self._high = None if self._high is None else self._high * prices
            self._price_exponent += min(price, 0)
            self._size_exponent += min(size, 0)
        return 10 ** max(price, 0), 10 ** max(size, 0)

    def _advance(self, update: BookUpdate) -> None:
        self.last_update_id = update.last_update_id
        self.event_time_us = update.event_time if update.HasField("event_time") else None
        self.receive_time_ns = update.receive_time
        self.stale = update.stale

    def _levels(self, side: dict[int, int], prices: Sequence[int]) -> list[tuple[str, str]]:
        price_exponent, size_exponent = self._price_exponent, self._size_exponent
        return [
            (to_string(price, price_exponent), to_string(side[price], size_exponent))
            for price in prices
        ]


def _check(update: BookUpdate) -> None:
    bids, asks = len(update.bid_price_units), len(update.ask_price_units)
    if bids != len(update.bid_size_units) or asks != len(update.ask_size_units):
        raise ValueError("prices and sizes differ in number")
    check_exponents(update.price_exponent, update.size_exponent)


def check_exponents(*exponents: int) -> None:
    """Raise ValueError if an exponent is outside the range of valid events."""
    if max(map(abs, exponents)) > MAX_EXPONENT:
        raise ValueError(f"an exponent is beyond ±{MAX_EXPONENT}")


def _change(
    side: dict[int, int],
    prices: Sequence[int],
    sizes: Sequence[int],
    price_factor: int,
    size_factor: int,
) -> None:
    for price, size in zip(prices, sizes, strict=True):
        if size:
            side[price * price_factor] = size * size_factor
        else:
            side.pop(price * price_factor, None)
