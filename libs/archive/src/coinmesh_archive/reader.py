"""Reads archived records by their manifest: each once, in order of offsets, digests checked."""

from __future__ import annotations

from collections.abc import Iterator

from coinmesh_archive import arrow_types as arrow
from coinmesh_archive.manifest import Incarnation, Manifest, RawObject
from coinmesh_archive.objects import parse
from coinmesh_archive.store import ArchiveStore
from meshkit.errors import DataLoss, NotFound


def read_day(store: ArchiveStore, topic: str, date: str) -> Iterator[tuple[str, arrow.Table]]:
    """Yield the records of a topic and day as tables, each with its incarnation's topic id.

    A day that is still being archived is read up to the manifest's end. If an object was merged
    into another one meanwhile, the manifest is read again.

    Raises:
        NotFound: The day has no manifest.
        DataLoss: The manifest isn't complete, or an object is missing or damaged.
    """
    manifest = complete(store, topic, date)
    for at, incarnation in enumerate(manifest.incarnations):
        for number, partition in sorted(incarnation.partitions.items()):
            position = partition.first
            while position < partition.next:
                item = _after(manifest.incarnations[at], number, position)
                if item is None or item.first >= partition.next:
                    break
                try:
                    table = read_object(store, item)
                except NotFound as error:
                    renewed = complete(store, topic, date)
                    if _after(renewed.incarnations[at], number, position) == item:
                        raise DataLoss("RAW_OBJECT_MISSING", str(error)) from error
                    manifest = renewed
                    continue
                offsets = table.column("offset").to_numpy()
                yield incarnation.topic_id, table.slice(int((offsets < position).sum()))
                position = item.last + 1


def complete(store: ArchiveStore, topic: str, date: str) -> Manifest:
    """Return the complete manifest of a topic and day; raise errors as `read_day`."""
    stored = store.load(topic, date)
    if stored is None:
        raise NotFound("RAW_DAY_NOT_FOUND", f"{topic} has no manifest of {date}")
    if faults := stored.manifest.faults():
        raise DataLoss("RAW_DAY_INCOMPLETE", "; ".join(faults[:10]))
    return stored.manifest


def read_object(store: ArchiveStore, item: RawObject) -> arrow.Table:
    """Return the records of an object.

    Raises:
        NotFound: It doesn't exist.
        DataLoss: It differs from its manifest.
    """
    table = parse(store.read(item.key), item.sha256)
    if table is None:
        raise DataLoss("RAW_OBJECT_DAMAGED", f"{item.key} doesn't have the digest of its manifest")
    return table


def _after(incarnation: Incarnation, number: int, position: int) -> RawObject | None:
    """Return the first object of a partition with a record at `position` or after it."""
    objects = incarnation.partitions[number].objects
    return next((item for item in objects if item.last >= position), None)
