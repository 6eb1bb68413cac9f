"""Ids that begin anew: an instrument is listed again, or a test network is reset.

A stream's times grow with its ids, so an old id with a newer time is no repetition. Several of them
in a row are needed: one alone may be a wrong frame.
"""

from __future__ import annotations

from typing import Final

CONFIRMATIONS: Final = 3
AFTER_US: Final = 1_000_000
"""How much newer (µs) the time of an old id has to be than that of the last event."""


class Restart:
    """Watches one stream's duplicates."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last_id = -1

    def is_new(self, event_id: int, time: int, last_time: int | None) -> bool:
        """Take an event whose id is not above the last one; True when ids certainly began anew."""
        if last_time is None or time <= last_time + AFTER_US:
            self._in_a_row = 0
            return False
        self._in_a_row = self._in_a_row + 1 if event_id > self._last_id else 1
        self._last_id = event_id
        if self._in_a_row < CONFIRMATIONS:
            return False
        self._in_a_row = 0
        return True
