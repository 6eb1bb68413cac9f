"""An order book of integer levels with the update id of its last change."""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from sortedcontainers import SortedDict

from coinmesh_simulators.exchange.amounts import to_text


class Side(IntEnum):
    """Side of the book."""

    BID = 0
    ASK = 1


class Change(NamedTuple):
    """A level's new quantity; zero removes the level."""

    side: Side
    price: int
    quantity: int


class Top(NamedTuple):
    """Best bid and ask with their quantities; zeros where a side is empty."""

    bid: int
    bid_quantity: int
    ask: int
    ask_quantity: int


class OrderBook:
    """Levels of one symbol. Prices and quantities are units of 10^-8."""

    def __init__(self) -> None:
        self.update_id = 0
        self.bids: SortedDict[int, int] = SortedDict()
        self.asks: SortedDict[int, int] = SortedDict()

    def levels(self, side: Side) -> "SortedDict[int, int]":
        """One side's levels, ascending by price."""
        return self.asks if side else self.bids

    def quantity(self, side: Side, price: int) -> int:
        """The quantity at a price, 0 when the level is absent."""
        return self.levels(side).get(price, 0)

    def set(self, change: Change) -> None:
        """Put or remove one level; removing an absent level is normal."""
        levels = self.asks if change.side else self.bids
        if change.quantity:
            levels[change.price] = change.quantity
        else:
            levels.pop(change.price, None)

    def reset(self, update_id: int, changes: Iterable[Change]) -> None:
        """Replace the whole book by a snapshot."""
        self.bids.clear()
        self.asks.clear()
        for change in changes:
            self.set(change)
        self.update_id = update_id

    def best(self, side: Side) -> int:
        """Best price of a side, 0 when it is empty."""
        levels = self.asks if side else self.bids
        if not levels:
            return 0
        return levels.peekitem(0 if side else -1)[0]

    def top(self) -> Top:
        """Best bid and ask."""
        bid = self.bids.peekitem(-1) if self.bids else (0, 0)
        ask = self.asks.peekitem(0) if self.asks else (0, 0)
        return Top(bid[0], bid[1], ask[0], ask[1])

    def ladder(self, side: Side, limit: int) -> list[tuple[str, str]]:
        """The best `limit` levels of a side as text, best first (the form of REST depth)."""
        levels = self.levels(side)
        prices = levels.keys()
        chosen = prices[:limit] if side else list(reversed(prices[-limit:]))
        return [(to_text(price), to_text(levels[price])) for price in chosen]
