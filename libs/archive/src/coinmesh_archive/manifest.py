"""The manifest of a topic and day: the objects with its records, and every offset between them.

An object that no manifest lists doesn't exist for readers. For each partition, every offset from
`first` to before `next` is a record in exactly one object, or `absent`, or `skipped`; `faults`
verifies it from the manifest alone. A sealed manifest never changes again.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import chain
from typing import Final

import msgspec

FORMAT: Final = 1
COMPACTED: Final = "compacted"
"""Removed by Kafka's compaction before the archive read it: a newer record of its key exists."""
CONTROL: Final = "control"
"""A transaction marker or a record of an aborted transaction: never visible to a consumer."""
UNVERIFIED: Final = "unverified"
"""No record existed when the object was written, by an archive without manifests."""

Span = tuple[int, int]
"""First and last offset, inclusive; or first and last time."""


class ManifestError(Exception):
    """A manifest is damaged, or has another format."""


class KeyStatistics(msgspec.Struct, array_like=True, frozen=True):
    """The records of one key in an object.

    Attributes:
        records: Number of records.
        times: Smallest and largest event time, microseconds since the Unix epoch; None without.
        ids: Smallest and largest native trade id; None for events without.
    """

    records: int
    times: Span | None = None
    ids: Span | None = None

    def plus(self, other: KeyStatistics) -> KeyStatistics:
        """Return the statistics of both objects' records."""
        return KeyStatistics(
            self.records + other.records,
            enclosing(self.times, other.times),
            enclosing(self.ids, other.ids),
        )


class RawObject(msgspec.Struct, frozen=True, kw_only=True):
    """A parquet object.

    Attributes:
        key: Its key in the bucket; it contains the offsets and a prefix of the digest.
        first: Offset of the first record.
        last: Offset of the last record.
        records: Number of records; smaller than the number of offsets if some are absent.
        size: Bytes of the object.
        payload: Bytes of its records' keys and values.
        sha256: Digest of the object, hexadecimal.
        appended: Append time of the first record, and the newest; microseconds since the epoch.
        events: Smallest and largest event time, likewise; None if no record has one.
        keys: Statistics by record key, which is the instrument for topics keyed by it.
    """

    key: str
    first: int
    last: int
    records: int
    size: int
    payload: int
    sha256: str
    appended: Span
    events: Span | None
    keys: dict[str, KeyStatistics]


class Absent(msgspec.Struct, array_like=True, frozen=True):
    """Offsets for which Kafka has no record, and the reason."""

    first: int
    last: int
    reason: str


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets whose records are lost, confirmed by an operator.

    Attributes:
        first: The first offset.
        last: The last offset; None if unknown, because the topic was deleted.
        reason: The reason stated by the operator.
        actor: The operator.
        time: When it was recorded, microseconds since the Unix epoch.
    """

    first: int
    last: int | None
    reason: str
    actor: str
    time: int


class Newest(msgspec.Struct, array_like=True, frozen=True):
    """The newest archived record of a partition, which identifies a log.

    Attributes:
        offset: Its offset.
        appended: The newest append time up to it, microseconds since the Unix epoch.
        epoch: The leader epoch of the log's end when it was archived; None if unknown.
    """

    offset: int
    appended: int
    epoch: int | None


class Partition(msgspec.Struct, kw_only=True):
    """A partition's offsets of the day: from `first` to before `next`.

    `newest` may be from an earlier day; it is None in manifests of a release that didn't record it.
    """

    first: int
    next: int
    objects: list[RawObject] = msgspec.field(default_factory=list[RawObject])
    absent: list[Absent] = msgspec.field(default_factory=list[Absent])
    skipped: list[Skipped] = msgspec.field(default_factory=list[Skipped])
    newest: Newest | None = None

    @property
    def records(self) -> int:
        """Return the number of the day's records."""
        return sum(item.records for item in self.objects)

    def faults(self) -> Iterator[str]:
        """Yield every violation of the rule that each offset is accounted for exactly once."""
        gaps = [(gap.first, gap.last) for gap in self.absent]
        gaps += [(gap.first, gap.last) for gap in self.skipped if gap.last is not None]
        inside: set[Span] = set()
        for item in self.objects:
            within = [gap for gap in gaps if item.first < gap[0] and gap[1] < item.last]
            inside.update(within)
            offsets = item.last - item.first + 1 - sum(last - first + 1 for first, last in within)
            if offsets != item.records:
                yield f"{item.key} has {item.records} records for {offsets} offsets"
        position = self.first
        outside = (gap for gap in gaps if gap not in inside)
        objects = ((item.first, item.last) for item in self.objects)
        for first, last in sorted(chain(objects, outside)):
            if first > position:
                yield f"offsets {position} to {first - 1} are missing"
            elif first < position:
                yield f"offsets {first} to {min(last, position - 1)} are listed twice"
            position = max(position, last + 1)
        if position != self.next:
            yield f"offsets {position} to {self.next - 1} are missing"

    def note_newest(self, epoch: int | None) -> None:
        """Record the last object's end as the newest record."""
        times = [item.appended[1] for item in self.objects]
        appended = max(*times, self.newest.appended if self.newest else 0)
        self.newest = Newest(self.objects[-1].last, appended, epoch)

    def add(
        self, objects: list[RawObject], retired: set[str], absent: list[Absent], end: int
    ) -> None:
        """Extend the partition to before `end`.

        Args:
            objects: New objects, in order; they contain the records of the retired ones.
            retired: Keys of objects that are no longer valid.
            absent: Offsets without a record from `next` to before `end`.
            end: The next offset that isn't archived.
        """
        self.objects = [item for item in self.objects if item.key not in retired] + objects
        self.absent = _joined([*self.absent, *absent])
        self.next = end


class Incarnation(msgspec.Struct, kw_only=True):
    """A topic from its creation to its deletion: offsets are unique within an incarnation.

    Attributes:
        topic_id: The id that Kafka assigned to the topic at its creation.
        partitions: Partitions by number.
        ended: Set once an operator confirmed that the topic was deleted or truncated.
    """

    topic_id: str
    partitions: dict[int, Partition]
    ended: Skipped | None = None


class Manifest(msgspec.Struct, kw_only=True):
    """The archived records of a topic and day.

    Attributes:
        topic: The topic.
        date: The UTC day of the records' append, as YYYY-MM-DD.
        incarnations: Oldest first; the last one is being archived.
        retired: Keys of replaced objects that may still exist.
        sealed: Whether the day is complete: a sealed manifest is never changed.
        origin: Whether the topic's archive begins with this day; None in manifests of a release
            that didn't record it.
        format: The layout's version.
    """

    topic: str
    date: str
    incarnations: list[Incarnation] = msgspec.field(default_factory=list[Incarnation])
    retired: list[str] = msgspec.field(default_factory=list[str])
    sealed: bool = False
    origin: bool | None = None
    format: int = FORMAT

    @property
    def current(self) -> Incarnation:
        """Return the incarnation that is being archived."""
        return self.incarnations[-1]

    def faults(self) -> list[str]:
        """Return every violation of completeness with its partition; empty if complete."""
        return [
            f"{self.topic} {self.date}, partition {number}: {fault}"
            for incarnation in self.incarnations
            for number, partition in sorted(incarnation.partitions.items())
            for fault in partition.faults()
        ]

    def following(self) -> Manifest:
        """Return the next day's manifest, which begins where this one ends."""
        day = date.fromisoformat(self.date) + timedelta(days=1)
        starts = {
            number: Partition(first=partition.next, next=partition.next, newest=partition.newest)
            for number, partition in self.current.partitions.items()
        }
        incarnation = Incarnation(topic_id=self.current.topic_id, partitions=starts)
        return Manifest(
            topic=self.topic, date=day.isoformat(), incarnations=[incarnation], origin=False
        )


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest as gzipped JSON; equal manifests produce equal bytes."""
    return gzip.compress(msgspec.json.encode(manifest), compresslevel=1, mtime=0)


def decode(data: bytes) -> Manifest:
    """Decode the result of `encode`.

    Raises:
        ManifestError: The data is damaged or has another format.
    """
    try:
        manifest = msgspec.json.decode(gzip.decompress(data), type=Manifest)
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
        raise ManifestError(f"the manifest is damaged: {error}") from error
    if manifest.format != FORMAT:
        raise ManifestError(f"the manifest has format {manifest.format}, this release {FORMAT}")
    return manifest


def enclosing(one: Span | None, other: Span | None) -> Span | None:
    """Return the smallest span that contains both."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _joined(gaps: list[Absent]) -> list[Absent]:
    """Return `gaps` with adjacent ones of the same reason merged."""
    joined: list[Absent] = []
    for gap in gaps:
        if joined and joined[-1].last + 1 == gap.first and joined[-1].reason == gap.reason:
            gap = Absent(joined.pop().first, gap.last, gap.reason)  # noqa: PLW2901
        joined.append(gap)
    return joined
