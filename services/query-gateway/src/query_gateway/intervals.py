"""Bar intervals: stored ones, those derived from them, and their partitions.

Times are whole milliseconds since the Unix epoch (UTC). Every interval divides a day, so its
windows are aligned to the epoch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from coinmesh_contracts import serving
from coinmesh_contracts.serving import INTERVALS
from meshkit.errors import InvalidArgument

NAME_OF_SECONDS: Final = {seconds: name for name, seconds in INTERVALS.items()}

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
_WEEK_MS: Final = 7 * DAY_MS
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NAME: Final = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_EXAMPLES: Final = "1s, 1m, 5m, 1h, 1d, or a multiple of one that divides a day, such as 15m or 4h"


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval.

    Attributes:
        name: The requested name, e.g. "15m".
        ms: Its length in milliseconds.
        stored: The longest stored interval of which it is a multiple, e.g. "5m".
        stored_ms: The length of the stored interval in milliseconds.
    """

    name: str
    ms: int
    stored: str
    stored_ms: int

    @property
    def factor(self) -> int:
        """Return the number of stored windows in one window."""
        return self.ms // self.stored_ms

    def ceil(self, time_ms: int) -> int:
        """Return the first window start at or after a time."""
        return -(-time_ms // self.ms) * self.ms

    def floor(self, time_ms: int) -> int:
        """Return the last window start at or before a time."""
        return time_ms // self.ms * self.ms


def parse(name: str) -> Interval:
    """Return the interval of a name.

    Raises:
        InvalidArgument: UNKNOWN_INTERVAL; the message lists the valid ones.
    """
    match = _NAME.fullmatch(name)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not seconds or 86_400 % seconds:
        raise _unknown(name, _EXAMPLES)
    stored = max((s for s in INTERVALS.values() if seconds % s == 0), default=1)
    return Interval(name, seconds * 1000, NAME_OF_SECONDS[stored], stored * 1000)


def parse_stored(name: str) -> Interval:
    """Parse an interval name as `parse`, but accept only stored intervals.

    Raises:
        InvalidArgument: UNKNOWN_INTERVAL.
    """
    if name not in INTERVALS:
        raise _unknown(name, ", ".join(INTERVALS))
    return parse(name)


def _unknown(name: str, valid: str) -> InvalidArgument:
    return InvalidArgument(
        "UNKNOWN_INTERVAL",
        f"there is no interval {name[:40]!r}; ask for {valid}",
        field="interval",
        interval=name[:40],
    )


def bucket(stored: str, time_ms: int) -> int:
    """Return the start of the partition that contains a time."""
    return serving.bucket(stored, time_ms // 1000) * 1000


def next_bucket(stored: str, bucket_ms: int) -> int:
    """Return the start of the partition after the one that starts at `bucket_ms`."""
    # The longest spans are 31 and 366 days; a week more is still inside the next one.
    span = {"1s": HOUR_MS, "1m": DAY_MS, "5m": _WEEK_MS, "1h": 32 * DAY_MS, "1d": 367 * DAY_MS}
    return bucket(stored, bucket_ms + span[stored])


def buckets(stored: str, low_ms: int, high_ms: int) -> list[int]:
    """Return the partitions that contain the times in [low, high), oldest first."""
    found: list[int] = []
    current = bucket(stored, low_ms)
    while current < high_ms:
        found.append(current)
        current = next_bucket(stored, current)
    return found
