"""Detects restarted ids: an instrument was listed again, or a test network was reset.

A stream's times grow with its ids, so an old id with a newer time is not a repetition. Several in a
row are required: a single one may be a wrong frame.
"""

from __future__ import annotations

from typing import Final

CONFIRMATIONS: Final = 3
AFTER_US: Final = 1_000_000
"""Minimum time (µs) by which an old id's time must exceed that of the last event."""


class Restart:
    """Watches one stream's duplicates."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last_id = -1

    def is_new(self, event_id: int, time: int, last_time: int | None) -> bool:
        """Check an event whose id is not above the last; return True if ids certainly restarted."""
        if last_time is None or time <= last_time + AFTER_US:
            self._in_a_row = 0
            return False
        self._in_a_row = self._in_a_row + 1 if event_id > self._last_id else 1
        self._last_id = event_id
        if self._in_a_row < CONFIRMATIONS:
            return False
        self._in_a_row = 0
        return True
