"""Reading a range of time that is spread over partitions, of which most may be empty.

Pure control flow: what a partition holds is a function that is passed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

R = TypeVar("R")
MAX_WAVE: Final = 16


class Scan(NamedTuple, Generic[R]):
    """What was read, in the order of reading.

    Attributes:
        rows: At most as many as asked for.
        full: Whether reading ended because there were enough rows.
    """

    rows: list[R]
    full: bool


async def scan(
    partitions: Sequence[int],
    read: Callable[[int, int], Awaitable[list[R]]],
    limit: int,
    first_wave: int,
) -> Scan[R]:
    """Reads partitions in the order given, several at a time, until there are `limit` rows.

    Args:
        partitions: The partitions, in the order of reading.
        read: The rows of a partition in the order of reading, at most as many as its second
            argument says.
        limit: How many rows are wanted.
        first_wave: How many partitions probably hold them; later waves double.
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
