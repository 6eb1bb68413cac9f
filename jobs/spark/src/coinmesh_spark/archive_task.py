"""The archive's task: writes the records of Kafka partitions to objects, unchanged.

The objects are valid once the driver has listed them in a manifest. A slice at least half as large
as the object before it is merged with it, so that a partition and day has few objects even if its
slices are small. Records that aren't events of their topic are archived as well, and reported as
dead letters; the bars' query reports those of the trades.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
from google.protobuf.message import DecodeError

from coinmesh_archive import arrow_types as arrow
from coinmesh_archive import objects
from coinmesh_archive.manifest import COMPACTED, CONTROL, Absent, RawObject
from coinmesh_contracts import framing, topics
from coinmesh_spark import failpoints, reads
from coinmesh_spark.archive_store import WorkerStore, worker_store
from coinmesh_spark.sinks.dead_letters import TOPIC as DEAD_LETTERS
from coinmesh_spark.sinks.dead_letters import dead_letter
from coinmesh_spark.trades import Ints

RESULT = "report binary"
_RESULT = pa.schema([("report", pa.binary())])
# Functions of this module are created at import, where a type checker doesn't see them.
pc: Any = pyarrow.compute
_REPORTED_ELSEWHERE = {topics.TRADES.name, topics.DEAD_LETTERS.name}


class Tail(NamedTuple):
    """An object with which new records may be merged."""

    key: str
    sha256: str
    payload: int


class Range(NamedTuple):
    """Offsets of a partition to archive, from `start` to before `end`, and its newest objects."""

    start: int
    end: int
    tail: tuple[Tail, ...]


@dataclass(frozen=True)
class Plan:
    """Input of the archive's tasks.

    Attributes:
        batch: The batch's number since the start of the driver.
        max_bytes: Maximum bytes of keys and values in an object (unless one record exceeds it).
        schemas: Each topic's schema id of this release; others are looked up in the registry.
        ranges: The offsets to archive, by topic and partition.
        pids: Process ids of the driver and its JVM, for failpoints.
    """

    batch: int
    max_bytes: int
    schemas: dict[str, int]
    ranges: Mapping[tuple[str, int], Range]
    pids: dict[str, int]


class Report(msgspec.Struct, kw_only=True):
    """The result of a task for one partition.

    Attributes:
        topic: The topic.
        partition: The partition.
        objects: New objects; their statistics lack the records of retired objects.
        retired: Keys of the objects that the first new one replaces.
        absent: Offsets of the range without a record.
        appended: Append time of the newest record, milliseconds since the Unix epoch.
        records: Records read.
        size: Bytes of the new objects.
        dead: Dead letters by reason.
    """

    topic: str
    partition: int
    objects: list[RawObject] = msgspec.field(default_factory=list[RawObject])
    retired: list[str] = msgspec.field(default_factory=list[str])
    absent: list[Absent] = msgspec.field(default_factory=list[Absent])
    appended: int = 0
    records: int = 0
    size: int = 0
    dead: dict[str, int] = msgspec.field(default_factory=dict[str, int])


def function(plan: Plan) -> Callable[[Iterator[arrow.RecordBatch]], Iterator[arrow.RecordBatch]]:
    """Return `run` in the form that mapInArrow requires."""
    return partial(run, plan)


def run(plan: Plan, batches: Iterator[arrow.RecordBatch]) -> Iterator[arrow.RecordBatch]:
    """Archive the records of several partitions, which arrive one after the other."""
    store = worker_store()
    for (topic, partition), records in groupby(_runs(batches), key=itemgetter(0)):
        report = Report(topic=topic, partition=partition)
        _partition(store, plan, report, map(itemgetter(1), records))
        encoded = pa.array([msgspec.json.encode(report)], pa.binary())
        yield pa.RecordBatch.from_arrays([encoded], schema=_RESULT)


def _runs(
    batches: Iterator[arrow.RecordBatch],
) -> Iterator[tuple[tuple[str, int], arrow.RecordBatch]]:
    """Split the records into pieces of one partition each; yield them with topic and partition."""
    for batch in batches:
        begin = 0
        while begin < len(batch):
            rest = batch.slice(begin)
            place = rest.column("topic")[0], rest.column("partition")[0]
            same = pc.and_(
                pc.equal(rest.column("topic"), place[0]),
                pc.equal(rest.column("partition"), place[1]),
            )
            other = pc.index(same, False).as_py()
            length = len(rest) if other < 0 else other
            yield (place[0].as_py(), place[1].as_py()), rest.slice(0, length)
            begin += length


def _partition(
    store: WorkerStore, plan: Plan, report: Report, batches: Iterator[arrow.RecordBatch]
) -> None:
    """Archive a partition's records.

    Raises:
        IncompleteReadError: Records that Kafka has weren't read.
    """
    topic = report.topic
    planned = plan.ranges[topic, report.partition]
    offsets: list[Ints] = []
    tail = list(planned.tail)
    dead: Counter[str] = Counter()
    for table in _cut(batches, plan.max_bytes):
        offsets.append(table.column("offset").to_numpy())
        report.appended = table.column("timestamp").cast(pa.int64())[-1].as_py() // 1000
        report.records += len(table)
        facts, letters = _decode(store, topic, table, plan.schemas)
        item = _archive(store, report, table, facts=facts, tail=tail, max_bytes=plan.max_bytes)
        report.objects.append(item)
        report.size += item.size
        tail = []
        failpoints.reach("archived", plan.batch, plan.pids)
        dead += _report(store, topic, table, letters, plan.schemas)
    report.dead = dict(dead)
    read = np.concatenate(offsets)
    reads.check_read(
        report.partition,
        read,
        planned.start,
        planned.end,
        partial(reads.visible_offsets, store.settings, topic),
        compacted=topics.BY_NAME[topic].retention_days is None,
    )
    report.absent = absent(topic, read, planned.start, planned.end)


def absent(topic: str, read: Ints, start: int, end: int) -> list[Absent]:
    """Return the offsets from `start` to before `end` that aren't among the ascending `read`."""
    reason = COMPACTED if topics.BY_NAME[topic].retention_days is None else CONTROL
    edges = np.concatenate([[start - 1], read, [end]])
    gaps = np.flatnonzero(np.diff(edges) > 1)
    return [Absent(int(edges[at]) + 1, int(edges[at + 1]) - 1, reason) for at in gaps]


def _cut(batches: Iterator[arrow.RecordBatch], max_bytes: int) -> Iterator[arrow.Table]:
    """Yield the records in pieces of about `max_bytes`; the cuts depend on the records alone."""
    held: list[arrow.RecordBatch] = []
    size = 0
    for batch in batches:
        begin = 0
        for row, length in enumerate(objects.payload(batch).to_pylist()):
            if size and size + length > max_bytes:
                held.append(batch.slice(begin, row - begin))
                yield pa.Table.from_batches(held)
                held, size, begin = [], 0, row
            size += length
        held.append(batch.slice(begin))
    if size or any(len(batch) for batch in held):
        yield pa.Table.from_batches(held)


def _archive(
    store: WorkerStore,
    report: Report,
    table: arrow.Table,
    *,
    facts: list[objects.Fact],
    tail: list[Tail],
    max_bytes: int,
) -> RawObject:
    """Write an object of `table`, merged with as many objects of the tail as allowed."""
    statistics = objects.statistics(table.column("key"), facts)
    ids = objects.schema_ids(table)
    for schema_id in sorted({schema_id for schema_id in ids if schema_id is not None}):
        store.keep_schema(schema_id)
    table = table.drop_columns(["topic"]).append_column("schema_id", pa.array(ids, pa.int32()))
    size = pc.sum(objects.payload(table)).as_py()
    while tail and tail[-1].payload <= 2 * size and tail[-1].payload + size <= max_bytes:
        data = store.read(tail[-1].key)
        before = None if data is None else objects.parse(data, tail[-1].sha256)
        if before is None:
            break  # missing or damaged: `coinmesh raw verify` reports it
        size += tail[-1].payload
        table = pa.concat_tables([before.cast(table.schema), table])
        report.retired.append(tail.pop().key)
    item, data = objects.build(report.topic, table, statistics)
    store.put(item.key, data)
    return item


class Letter(NamedTuple):
    """A record that isn't an event of its topic: its row and the reason."""

    row: int
    reason: str
    detail: str


def _decode(
    store: WorkerStore, topic: str, table: arrow.Table, schemas: dict[str, int]
) -> tuple[list[objects.Fact], list[Letter]]:
    """Return the records' facts, and the records that aren't events of their topic."""
    known = topics.BY_NAME[topic]
    letters: list[Letter] = []
    if topic in _REPORTED_ELSEWHERE:
        return objects.facts(topic, table.column("value").to_pylist()), letters
    facts = [objects.NO_FACT] * len(table)
    if known.message is None:
        return facts, letters
    for row, value in enumerate(table.column("value").to_pylist()):
        if value is None and known.retention_days is None:
            continue  # a tombstone of a compacted topic
        try:
            schema_id, payload = framing.split(value)
            if schema_id == schemas.get(topic) or store.accepts(topic, schema_id):
                facts[row] = objects.fact(known.message.FromString(payload))
                continue
            detail = f"schema id {schema_id} isn't one of {topic}'s"
            letters.append(Letter(row, "UNKNOWN_SCHEMA_ID", detail))
        except framing.FramingError as error:
            letters.append(Letter(row, error.reason, str(error)))
        except DecodeError as error:
            letters.append(Letter(row, "BAD_PROTOBUF", str(error)))
    return facts, letters


def _report(
    store: WorkerStore,
    topic: str,
    table: arrow.Table,
    letters: list[Letter],
    schemas: dict[str, int],
) -> Counter[str]:
    """Send dead letters and return their number by reason."""
    header = framing.header(schemas[DEAD_LETTERS])
    for row, reason, detail in letters:
        key, letter = dead_letter(
            topic, table, row, reason=reason, detail=detail, reporter=store.name
        )
        store.kafka.send(DEAD_LETTERS, key, header + letter)
    if letters:
        store.kafka.flush()
    return Counter(letter.reason for letter in letters)
