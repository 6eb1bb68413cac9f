"""One side of an order book: sizes by price, and the prices in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


class Side:
    """Bids or asks, price → size, in units of 10^-8.

    The prices are in a sorted list, asks negated, so that the best is the last one and changes near
    it, which are the most frequent, move few entries.
    """

    def __init__(self, *, is_bid: bool) -> None:
        self._sign = 1 if is_bid else -1
        self._keys: list[int] = []
        self.levels: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of levels."""
        return len(self.levels)

    def replace(self, prices: Sequence[int], sizes: Sequence[int]) -> None:
        """Replace all levels."""
        self.levels = {price: size for price, size in zip(prices, sizes, strict=True) if size}
        self._keys = sorted(self._sign * price for price in self.levels)

    def apply(self, prices: Sequence[int], sizes: Sequence[int]) -> None:
        """Set the sizes of levels; 0 removes a level, and removing an absent one is normal."""
        levels, keys, sign = self.levels, self._keys, self._sign
        for price, size in zip(prices, sizes, strict=True):
            if size:
                if price not in levels:
                    insort(keys, sign * price)
                levels[price] = size
            elif price in levels:
                del levels[price]
                del keys[bisect_left(keys, sign * price)]

    def best(self) -> tuple[int, int]:
        """Return price and size of the best level; 0 and 0 if the side is empty."""
        if not self._keys:
            return 0, 0
        price = self._sign * self._keys[-1]
        return price, self.levels[price]

    def top(self, count: int) -> tuple[list[int], list[int]]:
        """Return prices and sizes of the best `count` levels, best first."""
        prices = [self._sign * key for key in self._keys[: -count - 1 : -1]]
        return prices, [self.levels[price] for price in prices]
