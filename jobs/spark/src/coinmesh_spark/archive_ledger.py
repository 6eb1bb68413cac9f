"""The archive position of a topic: its newest manifest, extended by each batch and day.

Manifests are the archive's only state. A batch is effective once its manifest is written, and the
next one begins after it, so a crash leaves at most objects that no manifest lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from coinmesh_archive import topic_log
from coinmesh_archive.manifest import (
    COMPACTED,
    CONTROL,
    Absent,
    Manifest,
    Partition,
    RawObject,
    enclosing,
)
from coinmesh_archive.objects import merged
from coinmesh_archive.store import ArchiveStore
from coinmesh_archive.topic_log import TopicLog, TopicLogs
from coinmesh_contracts import topics
from coinmesh_spark.archive_task import Range, Report, Tail
from meshkit.errors import FailedPrecondition

GRACE_SECONDS: Final = 60
"""Delay after midnight before a day is closed: Kafka's clock may be behind this machine's."""
_TAIL: Final = 16
_UNLISTED: Final = re.compile(r"\d+-\d{20}-\d{20}\.parquet")
"""An object of an archive without manifests."""


class NotIndexed(FailedPrecondition):
    """The topic has objects of an archive without manifests."""


class Ledger:
    """The newest manifest of one topic; every method raises the errors of `ArchiveStore`."""

    def __init__(self, store: ArchiveStore, topic: str) -> None:
        self._store, self.topic = store, topic
        self._manifest: Manifest | None = None
        self._etag: str | None = None
        self._epochs: Mapping[int, int | None] = {}

    def forget(self) -> None:
        """Read the manifest again before its next use."""
        self._manifest = None

    def position(self, number: int) -> int | None:
        """Return the next offset of a partition to archive; None while the topic is stopped."""
        if self._manifest is None:
            return None
        return topic_log.next_offset(self._manifest.current, number)

    def open(self, logs: TopicLogs, log: TopicLog, now: datetime) -> Manifest:
        """Return the newest manifest; for a new topic one of the day of Kafka's first record.

        Raises:
            NotIndexed: There are objects, but no manifest.
            LostRecords: Kafka no longer has the records to archive next.
        """
        if self._manifest is None:
            stored = self._store.newest(self.topic)
            if stored is not None and stored.manifest.retired:
                self._store.delete(stored.manifest.retired)
            if stored is None:
                self._manifest, self._etag = self._new(logs, log, now), None
            elif stored.manifest.sealed:
                self._manifest, self._etag = stored.manifest.following(), None
            else:
                self._manifest, self._etag = stored.manifest, stored.etag
        self._epochs = log.epochs
        try:
            topic_log.check(self._manifest, logs.compared(log, self._manifest))
        except topic_log.LostRecords:
            self.forget()  # an operator's skip is read at the next attempt
            raise
        return self._manifest

    def ranges(
        self, logs: TopicLogs, log: TopicLog, now: datetime
    ) -> tuple[dict[tuple[str, int], Range], bool]:
        """Return the ranges to archive for the manifest's day and whether the day is over.

        Raises the errors of `open`.
        """
        manifest = self.open(logs, log, now)
        ends = {number: end for number, (_, end) in log.bounds.items()}
        over = now >= _midnight(manifest.date, 1) + timedelta(seconds=GRACE_SECONDS)
        if over:
            cut = logs.offsets_at(log, _micros(_midnight(manifest.date, 1)))
            ends = {number: min(end, cut[number]) for number, end in ends.items()}
        found: dict[tuple[str, int], Range] = {}
        for number, end in ends.items():
            start = topic_log.next_offset(manifest.current, number)
            if start < end:
                part = manifest.current.partitions.get(number)
                tail = part.objects[-_TAIL:] if part else ()
                found[self.topic, number] = Range(
                    start, end, tuple(Tail(o.key, o.sha256, o.payload) for o in tail)
                )
        return found, over

    def commit(self, planned: dict[int, Range], reports: Iterable[Report]) -> list[str]:
        """List a batch's objects in the manifest; return the keys of the objects they replace.

        Args:
            planned: The range of each partition of the batch.
            reports: The report of each partition that had records in its range.

        Raises:
            ManifestChanged: Another process archives the topic.
        """
        manifest = self._taken()
        reason = COMPACTED if topics.BY_NAME[self.topic].retention_days is None else CONTROL
        by_partition = {report.partition: report for report in reports}
        manifest.retired = []
        for number, (start, end, _) in planned.items():
            part = manifest.current.partitions.setdefault(
                number, Partition(first=start, next=start)
            )
            report = by_partition.get(number)
            if report is None:
                part.add([], set(), [Absent(start, end - 1, reason)], end)
                continue
            retired = set(report.retired)
            new = list(report.objects)
            if retired:
                replaced = [item for item in part.objects if item.key in retired]
                new[0] = _with_statistics(new[0], replaced)
            part.add(new, retired, report.absent, end)
            part.note_newest(self._epochs.get(number))
            manifest.retired += report.retired
        if faults := manifest.faults():
            raise AssertionError("; ".join(faults[:5]))
        self._put(manifest)
        return list(manifest.retired)

    def retire(self, keys: list[str]) -> None:
        """Delete replaced objects."""
        if keys:
            try:
                self._store.delete(keys)
            except BaseException:
                self.forget()
                raise

    def roll(self) -> None:
        """Seal the manifest's day and begin the next one."""
        manifest = self._taken()
        following = manifest.following()
        manifest.sealed = True
        self._put(manifest)
        manifest, self._etag = following, None
        self._manifest = None
        self._put(manifest)

    def _taken(self) -> Manifest:
        """Return the manifest to change; unless `_put` succeeds, the next use reads it again."""
        manifest, self._manifest = self._manifest, None
        assert manifest is not None, "opened before"
        return manifest

    def _put(self, manifest: Manifest) -> None:
        stored = self._store.put(manifest, self._etag)
        self._manifest, self._etag = stored.manifest, stored.etag

    def _new(self, logs: TopicLogs, log: TopicLog, now: datetime) -> Manifest:
        for key, _ in self._store.objects(self.topic):
            if _UNLISTED.fullmatch(key.rpartition("/")[2]):
                raise NotIndexed(
                    "RAW_NOT_INDEXED",
                    f"{self.topic} isn't archived: its objects, such as {key}, have no manifest; "
                    "run `coinmesh raw index` once",
                )
        day = now.date()
        # Back to the day of the first record that Kafka has.
        first = logs.offsets_at(log, 0)  # not the first offset in a compacted topic
        while any(
            offset > first[number]
            for number, offset in logs.offsets_at(log, _micros(_midnight(day.isoformat()))).items()
        ):
            day -= timedelta(days=1)
        incarnation = topic_log.begin(log)
        return Manifest(
            topic=self.topic, date=day.isoformat(), incarnations=[incarnation], origin=True
        )


def _with_statistics(item: RawObject, replaced: list[RawObject]) -> RawObject:
    """Return `item` with the statistics of the objects that it replaces added."""
    events = item.events
    for before in replaced:
        events = enclosing(events, before.events)
    return msgspec.structs.replace(item, keys=merged(replaced, item.keys), events=events)


def _midnight(day: str, days: int = 0) -> datetime:
    """Return the start of a day, or of the day `days` later."""
    moment = date.fromisoformat(day) + timedelta(days=days)
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
