"""Creates manifests for the objects of an archive without manifests.

Objects of such an archive may overlap, because a repeated batch with another size limit was split
differently: the part of an object beyond its predecessors is written again as a new object. An
object whose records were appended later than those with higher offsets belongs to a later
incarnation.

The newest manifest is written first, the oldest last. After an interruption the manifests of the
last days exist, so that the archive resumes at the correct offsets, and a repetition adds the
others.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import structs

from coinmesh_archive import arrow_types as arrow
from coinmesh_archive import objects
from coinmesh_archive.manifest import (
    UNVERIFIED,
    Absent,
    Incarnation,
    Manifest,
    Partition,
    Skipped,
    Span,
)
from coinmesh_archive.objects import build, facts, statistics
from coinmesh_archive.store import ArchiveStore
from coinmesh_contracts import topics
from meshkit.errors import FailedPrecondition

UNKNOWN_ID: Final = "unknown"
"""Topic id of a topic that Kafka doesn't have; with a number, of its earlier incarnations."""
_KEY: Final = re.compile(r".*/date=([\d-]{10})/hour=(\d\d)/(\d+)-(\d{20})-(\d{20})\.parquet")


@dataclass
class _Position:
    """The position of a partition: its incarnation, next offset and newest append time."""

    incarnation: int
    next: int
    appended: int


@dataclass
class Indexer:
    """Builds a topic's manifests.

    Attributes:
        store: The archive.
        topic: The topic.
        topic_id: The topic's id in Kafka; `UNKNOWN_ID` if Kafka has no such topic.
        actor: The operator, recorded as responsible for offsets that no object has.
        time: Now, microseconds since the Unix epoch.
    """

    store: ArchiveStore
    topic: str
    topic_id: str
    actor: str
    time: int
    _positions: dict[int, _Position] = field(default_factory=dict[int, _Position])

    def run(self) -> Iterator[Manifest]:
        """Write the missing manifests, newest first; seal all but the topic's last.

        Raises:
            FailedPrecondition: The topic has all manifests, or others than an interrupted
                index leaves.
        """
        dates = self.store.dates(self.topic)
        if dates and not is_unfinished(self.store, self.topic):
            raise FailedPrecondition("RAW_INDEXED", f"{self.topic} has manifests already")
        manifests = list(self._manifests(dates))
        last = max((len(manifest.incarnations) for manifest in manifests), default=0) - 1
        ids = {number: f"{UNKNOWN_ID}-{number}" for number in range(last)}
        if dates:
            manifests = [manifest for manifest in manifests if manifest.date < dates[0]]
            following = self._continued(manifests[-1], dates[0])
            ids = {at: one.topic_id for at, one in enumerate(following.incarnations)}
        for manifest in reversed(manifests):
            for number, incarnation in enumerate(manifest.incarnations):
                incarnation.topic_id = ids.get(number, incarnation.topic_id)
            manifest.sealed = bool(dates) or manifest is not manifests[-1]
            self.store.put(manifest, None)
            yield manifest

    def _continued(self, manifest: Manifest, day: str) -> Manifest:
        """Return the oldest stored manifest, which must begin where `manifest` ends.

        Raises:
            FailedPrecondition: It doesn't begin there.
        """
        stored = self.store.load(self.topic, day)
        known = stored.manifest.incarnations if stored else []
        number = len(manifest.incarnations) - 1
        starts = known[number].partitions if number < len(known) else {}
        ends = {at: part.next for at, part in manifest.current.partitions.items()}
        if stored is None or {at: part.first for at, part in starts.items() if at in ends} != ends:
            raise FailedPrecondition(
                "RAW_INDEXED",
                f"{self.topic} has manifests from {day} on that don't begin where the objects "
                f"of {manifest.date} end",
            )
        return stored.manifest

    def _manifests(self, dates: list[str]) -> Iterator[Manifest]:
        """Yield the manifests of all days; `dates` are the days that already have one."""
        days: dict[str, list[tuple[str, int, int, int, str]]] = defaultdict(list)
        for key, _ in self.store.objects(self.topic):
            if match := _KEY.fullmatch(key):
                day, hour, partition, first, last = match.groups()
                days[day].append((hour, int(partition), int(first), -int(last), key))
        if not days:
            return
        # The objects of days that have manifests may have been replaced meanwhile.
        first, last = map(date.fromisoformat, (min(days), max([*days, *dates[:1]])))
        for number_of_day in range((last - first).days + 1):
            # A day without records has a manifest, too.
            day = (first + timedelta(days=number_of_day)).isoformat()
            manifest = Manifest(topic=self.topic, date=day, origin=number_of_day == 0)
            for number, position in sorted(self._positions.items()):
                self._partition(manifest, number, position)
            for number, span, key in self._ordered(days[day]):
                self._add(manifest, number, span, key)
            yield manifest

    def _ordered(
        self, found: list[tuple[str, int, int, int, str]]
    ) -> Iterator[tuple[int, Span, str]]:
        """Yield a day's objects by partition in order of append: partition, offsets and key.

        The objects of an hour are read to determine the order, because the offsets of a topic that
        was recreated within the hour restart.
        """
        for (_, number), group in groupby(sorted(found), key=itemgetter(0, 1)):
            objects_of_hour = [(first, last, key) for *_, first, last, key in group]
            if len(objects_of_hour) > 1:
                objects_of_hour.sort(key=lambda item: (self._appended(item[2]), *item))
            for first, last, key in objects_of_hour:
                yield number, (first, -last), key

    def _appended(self, key: str) -> int:
        """Return when an object's first record was appended, microseconds since the Unix epoch."""
        table = pq.read_table(pa.BufferReader(self.store.read(key)), columns=["timestamp"])
        times = table.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return times[0].as_py()

    def _partition(self, manifest: Manifest, number: int, position: _Position) -> Partition:
        """Return a partition of the manifest; add it at its position if it is missing."""
        while len(manifest.incarnations) <= position.incarnation:
            manifest.incarnations.append(Incarnation(topic_id=self.topic_id, partitions={}))
        partitions = manifest.incarnations[position.incarnation].partitions
        return partitions.setdefault(number, Partition(first=position.next, next=position.next))

    def _add(self, manifest: Manifest, number: int, span: tuple[int, int], key: str) -> None:
        first, last = span
        position = self._positions.get(number)
        data = self.store.read(key)
        table = pq.read_table(pa.BufferReader(data))
        keys = statistics(table.column("key"), facts(self.topic, table.column("value").to_pylist()))
        item, _ = build(self.topic, table, keys)
        if (item.first, item.last) != (first, last):
            raise FailedPrecondition(
                "RAW_OBJECT_DAMAGED",
                f"{key} has offsets {item.first} to {item.last}: restore it, or move it away",
            )
        if position is None:
            position = _Position(0, first, item.appended[0])
        elif first < position.next and item.appended[0] > position.appended:
            position = _Position(position.incarnation + 1, first, item.appended[0])
        elif last < position.next:
            return
        if first < position.next:
            table = table.filter(objects.pc.field("offset") >= position.next)
            values = table.column("value").to_pylist()
            item, rewritten = build(
                self.topic, table, statistics(table.column("key"), facts(self.topic, values))
            )
            self.store.write(item.key, rewritten)
        else:
            digest = hashlib.sha256(data).hexdigest()
            item = structs.replace(item, key=key, size=len(data), sha256=digest)
        part = self._partition(manifest, number, position)
        self._account_for_gap(part, item.first)
        part.add([item], set(), _unverified(table), item.last + 1)
        position.next, position.appended = part.next, item.appended[1]
        self._positions[number] = position

    def _account_for_gap(self, part: Partition, first: int) -> None:
        """Record the offsets before an object that no object has."""
        if first == part.next:
            return
        if topics.BY_NAME[self.topic].retention_days is None:
            part.add([], set(), [Absent(part.next, first - 1, UNVERIFIED)], first)
            return
        reason = "not in the objects that were indexed"
        part.skipped.append(
            Skipped(
                first=part.next, last=first - 1, reason=reason, actor=self.actor, time=self.time
            )
        )
        part.next = first


def is_unfinished(store: ArchiveStore, topic: str) -> bool:
    """Return whether a topic has objects that must be indexed but aren't yet."""
    dates = store.dates(topic)
    keys = (key for key, _ in store.objects(topic))
    match = next(filter(None, map(_KEY.fullmatch, keys)), None)
    return match is not None and (not dates or match[1] < dates[0])


def _unverified(table: arrow.Table) -> list[Absent]:
    """Return the offsets between an object's records that have no record."""
    offsets = table.column("offset").to_numpy()
    return [
        Absent(int(offsets[at]) + 1, int(offsets[at + 1]) - 1, UNVERIFIED)
        for at in np.flatnonzero(np.diff(offsets) > 1)
    ]
