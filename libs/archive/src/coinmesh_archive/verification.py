"""Check that a topic's manifests exist for all days and that each continues the one before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import pairwise

from coinmesh_archive.manifest import Manifest


def history_faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Yield every sign that manifests of a topic are missing or contradict one another.

    Args:
        manifests: All of the topic's, oldest first.
    """
    if manifests and manifests[0].origin is False:
        first = manifests[0]
        yield f"{first.topic} {first.date}: it continues a day before it, which has no manifest"
    for before, after in pairwise(manifests):
        yield from _missing_days(before, after)
        yield from _breaks(before, after)


def _missing_days(before: Manifest, after: Manifest) -> Iterator[str]:
    day = date.fromisoformat(before.date) + timedelta(days=1)
    while day < date.fromisoformat(after.date):
        yield f"{before.topic} {day.isoformat()}: it has no manifest"
        day += timedelta(days=1)


def _breaks(before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield the incarnations and partitions of a day that don't continue the day before."""
    where, topic_id = f"{after.topic} {after.date}", before.current.topic_id
    if not before.sealed:
        yield f"{before.topic} {before.date} isn't sealed, though {after.date} has begun"
    continued = [one for one in after.incarnations if one.topic_id == topic_id]
    if not continued:
        yield f"{where}: it doesn't continue {topic_id}, the log that {before.date} ends with"
        return
    for number, part in sorted(before.current.partitions.items()):
        following = continued[0].partitions.get(number)
        if following is None:
            yield f"{where}, partition {number}: it isn't continued at {part.next}"
        elif following.first != part.next:
            yield f"{where}, partition {number}: begins at {following.first}, not at {part.next}"
