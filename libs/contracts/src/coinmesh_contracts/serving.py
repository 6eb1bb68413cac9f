"""The serving schema: keys and write times of Cassandra's rows, shared by writers and readers.

The tables are in deploy/cassandra/migrations. Times are whole seconds since the Unix epoch (UTC)
unless a name states another unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

INTERVALS: Final[Mapping[str, int]] = MappingProxyType(
    {"1s": 1, "1m": 60, "5m": 300, "1h": 3600, "1d": 86_400}
)
"""The intervals that have a table, with their length in seconds. Each is a multiple of the one
before and divides a UTC day, so that windows are aligned to the epoch."""

TABLE_GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        f"@{family}": tuple(f"{family}_{interval}" for interval in INTERVALS)
        for family in ("bars", "indicators")
    }
)
"""Names for the tables of all intervals, used in grants: `@bars` and `@indicators`."""

STREAM_LAYER: Final = 0
"""The layer of the stream; the n-th batch publication of a day is layer n."""

TRADE_SHARDS: Final = 4
VWAP_EXTRA_DIGITS: Final = 8
"""Number of decimals of a bar's vwap beyond those of its prices."""

_LAYER_STEP: Final = 10**10
_TRADES_PER_SHARD: Final = 1000
_HOUR: Final = 3600
_DAY: Final = 86_400


def expand_tables(names: Iterable[str]) -> tuple[str, ...]:
    """Replace each group in `names` by its tables, without duplicates; ValueError if unknown."""
    tables: dict[str, None] = {}
    for name in names:
        if name.startswith("@") and name not in TABLE_GROUPS:
            known = ", ".join(TABLE_GROUPS)
            raise ValueError(f"there is no table group {name!r}; there are: {known}")
        tables |= dict.fromkeys(TABLE_GROUPS.get(name, (name,)))
    return tuple(tables)


@lru_cache(maxsize=65_536)
def bucket(interval: str, start: int) -> int:
    """Return the start of a window's partition: hour, day, week from Monday, month or year."""
    if interval == "1s":
        return start - start % _HOUR
    day = start - start % _DAY
    if interval == "1m":
        return day
    moment = datetime.fromtimestamp(day, UTC)
    if interval == "5m":
        return day - moment.weekday() * _DAY
    first = moment.replace(day=1) if interval == "1h" else moment.replace(month=1, day=1)
    return int(first.timestamp())


def trade_partition(event_time_us: int, trade_id: int) -> tuple[int, int]:
    """Return bucket and shard of a trade: id runs of a busy instrument go to different shards."""
    return bucket("1s", event_time_us // 1_000_000), trade_id // _TRADES_PER_SHARD % TRADE_SHARDS


def write_time(start: int, layer: int, revision: int) -> int:
    """Return the write timestamp (µs) of a window's row, derived from its content.

    Writing a row again changes nothing, an older revision never wins, and a batch layer always
    supersedes the layers below it.
    """
    return start * 1_000_000 + layer * _LAYER_STEP + revision


def divide_half_even(numerator: int, denominator: int) -> int:
    """Return the integer nearest to the quotient, ties to even; the denominator is positive."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient
