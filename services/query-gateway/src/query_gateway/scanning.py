"""Read a time range that is spread over partitions, most of which may be empty.

Pure control flow: the function that reads a partition is a parameter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

R = TypeVar("R")
MAX_WAVE: Final = 16


class Scan(NamedTuple, Generic[R]):
    """The rows read, in the order of reading.

    Attributes:
        rows: At most the requested number.
        full: Whether reading stopped because there were enough rows.
    """

    rows: list[R]
    full: bool


async def scan(
    partitions: Sequence[int],
    read: Callable[[int, int], Awaitable[list[R]]],
    limit: int,
    first_wave: int,
) -> Scan[R]:
    """Read partitions in the order given, several at a time, until there are `limit` rows.

    Args:
        partitions: The partitions, in the order of reading.
        read: Returns the rows of a partition in the order of reading, at most as many as its second
            argument.
        limit: The number of rows requested.
        first_wave: Number of partitions that probably contain them; later waves double.
    """
    rows: list[R] = []
    done, wave = 0, max(1, min(first_wave, MAX_WAVE))
    while done < len(partitions):
        wanted = limit - len(rows)
        group = partitions[done : done + wave]
        for found in await asyncio.gather(*(read(partition, wanted) for partition in group)):
            rows += found
            if len(rows) >= limit:
                return Scan(rows[:limit], True)
            done += 1
        wave = min(2 * wave, MAX_WAVE)
    return Scan(rows, False)
