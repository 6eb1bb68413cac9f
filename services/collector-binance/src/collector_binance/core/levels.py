"""One side of an order book: sizes by price, and the best price without a search."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


class Side:
    """Bids or asks, price → size, in units of 10^-8.

    The best price comes from a heap to which every new level is pushed; removed levels are skipped
    when they surface, and the heap is rebuilt when it holds too many of them.
    """

    def __init__(self, *, is_bid: bool) -> None:
        self._sign = -1 if is_bid else 1
        self._heap: list[int] = []
        self.levels: dict[int, int] = {}

    def replace(self, prices: Sequence[int], sizes: Sequence[int]) -> None:
        """Hold exactly these levels."""
        self.levels = {price: size for price, size in zip(prices, sizes, strict=True) if size}
        self._rebuild()

    def apply(self, prices: Sequence[int], sizes: Sequence[int]) -> None:
        """Set the sizes of levels; 0 removes one, and removing an absent one is normal."""
        levels, heap, sign = self.levels, self._heap, self._sign
        fresh = [price for price in prices if price not in levels]
        levels.update(zip(prices, sizes, strict=True))
        if 0 in sizes:
            for price in [price for price, size in zip(prices, sizes, strict=True) if not size]:
                # Unless the same message sets it again.
                if not levels.get(price, 1):
                    del levels[price]
        for price in fresh:
            if price in levels:
                heapq.heappush(heap, sign * price)
        if len(heap) > 2 * len(levels) + 1000:
            self._rebuild()

    def best(self) -> tuple[int, int]:
        """Price and size of the best level; 0 and 0 when the side is empty."""
        heap, levels, sign = self._heap, self.levels, self._sign
        while heap:
            price = sign * heap[0]
            size = levels.get(price)
            if size is not None:
                return price, size
            heapq.heappop(heap)
        return 0, 0

    def top(self, count: int) -> tuple[list[int], list[int]]:
        """Prices and sizes of the best `count` levels, best first."""
        prices = sorted(self.levels, reverse=self._sign < 0)[:count]
        return prices, [self.levels[price] for price in prices]

    def _rebuild(self) -> None:
        self._heap = [self._sign * price for price in self.levels]
        heapq.heapify(self._heap)
