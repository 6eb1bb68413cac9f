"""Delay of the REST routes that read the venue's database.

rest-api.md, "Data Sources": routes that read memory are ahead of those that read the database
(historicalTrades, aggTrades), whose delay is normal and not quantified there.
"""

import time
from collections import deque
from collections.abc import Callable

LONGEST_LAG = 60.0  # seconds that can be looked back
_SPACING = 0.05


class DatabaseView:
    """The newest trade id in the database at each moment of the last minute."""

    def __init__(self, last: int, now: Callable[[], float] = time.monotonic) -> None:
        """Create the view; `last` is the initial id."""
        self._oldest = last
        self._now = now
        self._notes: deque[tuple[float, int]] = deque()

    def note(self, last: int) -> None:
        """Record the present newest id, at most once per twentieth of a second."""
        now = self._now()
        notes = self._notes
        if notes and now - notes[-1][0] < _SPACING:
            notes[-1] = (notes[-1][0], last)
            return
        notes.append((now, last))
        while notes[0][0] < now - LONGEST_LAG:
            self._oldest = notes.popleft()[1]

    def last_id(self, lag: float) -> int:
        """Return the newest id of `lag` seconds ago."""
        until = self._now() - lag
        found = self._oldest
        for at, last in self._notes:
            if at > until:
                break
            found = last
        return found
