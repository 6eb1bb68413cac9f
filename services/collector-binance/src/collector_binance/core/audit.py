"""Continuous audit of the book: compares its top with the bookTicker of the same update id.

After the depth event that ends at update u, the book's top must equal that of the last bookTicker
whose id is at most u. A bookTicker may arrive after the depth event, so a difference counts only
once the bookTicker of u or a newer one has arrived. A lost bookTicker causes one difference, so
only several in a row, against different bookTickers, show that the book is wrong.
"""

from __future__ import annotations

from collections import deque
from typing import Final

Top = tuple[int, int, int, int]
"""Bid price and size, ask price and size."""

KEPT_QUOTES: Final = 4096
CONFIRMATIONS: Final = 3
"""Number of consecutive differences, against different bookTickers, that make a mismatch."""


class Audit:
    """Compares tops; `matches` and `differences` count comparisons."""

    def __init__(self) -> None:
        self._quotes: deque[tuple[int, Top]] = deque(maxlen=KEPT_QUOTES)
        self._waiting: tuple[int, Top] | None = None
        self._in_a_row = 0
        self._last_differing = -1
        self.last_match = -1
        self.matches = 0
        self.differences = 0
        self.detail = ""

    def reset(self) -> None:
        """Discard pending comparisons: quotes or deltas may have been missed."""
        self._quotes.clear()
        self._waiting = None
        self._in_a_row = 0

    def on_quote(self, update_id: int, top: Top) -> bool:
        """Process a bookTicker; return True if the book is certainly wrong."""
        waiting = self._waiting
        self._quotes.append((update_id, top))
        if waiting is None or update_id < waiting[0]:
            return False
        self._waiting = None
        return self.on_book(*waiting)

    def on_book(self, update_id: int, top: Top) -> bool:
        """Process the book's top after an update; return True if the book is certainly wrong."""
        quotes = self._quotes
        while len(quotes) > 1 and quotes[1][0] <= update_id:
            quotes.popleft()
        if not quotes or quotes[0][0] > update_id:
            return False
        quoted_id, quoted = quotes[0]
        if quoted == top:
            self.matches += 1
            self.last_match = update_id
            self._in_a_row = 0
            self._waiting = None
            return False
        if len(quotes) == 1 and quoted_id < update_id:
            self._waiting = (update_id, top)
            return False
        self.differences += 1
        if quoted_id != self._last_differing:
            self._in_a_row += 1
            self._last_differing = quoted_id
        self.detail = f"at update {update_id} the book's top is {top}, bookTicker's {quoted}"
        return self._in_a_row >= CONFIRMATIONS
