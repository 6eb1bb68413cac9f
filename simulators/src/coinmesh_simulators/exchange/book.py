"""An order book of integer levels with the update id of its last change."""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, cast

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
        self.bids: SortedDict = SortedDict()  # price to quantity, ascending
        self.asks: SortedDict = SortedDict()  # price to quantity, ascending

    def levels(self, side: Side) -> SortedDict:
        """Return one side's levels, ascending by price."""
        return self.asks if side else self.bids

    def quantity(self, side: Side, price: int) -> int:
        """Return the quantity at a price, 0 when the level is absent."""
        return self.levels(side).get(price, 0)

    def set(self, change: Change) -> None:
        """Set or remove one level; removing an absent level is normal."""
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
        """Return the best price of a side, 0 when it is empty."""
        levels = self.asks if side else self.bids
        if not levels:
            return 0
        return _peek(levels, side)[0]

    def top(self) -> Top:
        """Return best bid and ask."""
        bid = _peek(self.bids, Side.BID) if self.bids else (0, 0)
        ask = _peek(self.asks, Side.ASK) if self.asks else (0, 0)
        return Top(*bid, *ask)

    def ladder(self, side: Side, limit: int) -> list[tuple[str, str]]:
        """Return the best `limit` levels of a side as text, best first, as in REST depth."""
        levels = self.levels(side)
        prices = levels.keys()
        chosen = prices[:limit] if side else list(reversed(prices[-limit:]))
        return [(to_text(price), to_text(levels[price])) for price in chosen]


def _peek(levels: SortedDict, side: Side) -> tuple[int, int]:
    return cast("tuple[int, int]", levels.peekitem(0 if side else -1))
