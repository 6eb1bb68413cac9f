"""Raw objects: Kafka records as parquet, described for their manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError, Message

from coinmesh_archive import arrow_types as arrow
from coinmesh_archive.manifest import KeyStatistics, RawObject, Span, enclosing
from coinmesh_archive.store import RAW
from coinmesh_contracts import framing, topics

# Functions of this module are created at import, where a type checker doesn't see them.
pc: Any = pyarrow.compute
# Columns with dictionaries and statistics; pyarrow types both as bool alone.
_COLUMNS: Final[Mapping[str, Any]] = {
    "use_dictionary": ["key", "partition", "timestampType", "schema_id"],
    "write_statistics": ["offset", "timestamp"],
}
_MAX_SCHEMA_ID: Final = 1 << 31

Fact = tuple[int | None, int | None]
"""A record's event time in microseconds and native trade id, if its event has them."""
NO_FACT: Final[Fact] = None, None


def fact(event: Message) -> Fact:
    """Return the fact of a decoded event."""
    fields: Any = event
    return fields.event_time or None, getattr(fields, "trade_id", 0) or None


def facts(topic: str, values: Iterable[bytes | None]) -> list[Fact]:
    """Return the fact of each value that is an event of its topic, `NO_FACT` for the others."""
    known = topics.BY_NAME.get(topic)
    if known is None or known.message is None:
        return [NO_FACT for _ in values]
    read: list[Fact] = []
    for value in values:
        try:
            read.append(fact(known.message.FromString(framing.split(value)[1])))
        except (framing.FramingError, DecodeError):
            read.append(NO_FACT)
    return read


def statistics(keys: arrow.ChunkedArray, read: Sequence[Fact]) -> dict[str, KeyStatistics]:
    """Return statistics by key of records with these keys and facts; no key counts as ""."""
    times = pa.array([time for time, _ in read], pa.int64())
    ids = pa.array([trade_id for _, trade_id in read], pa.uint64())
    table: Any = pa.table({"key": keys, "time": times, "id": ids})
    spans = [(name, end) for name in ("time", "id") for end in ("min", "max")]
    groups = table.group_by("key", use_threads=False).aggregate([([], "count_all"), *spans])
    total: dict[str, KeyStatistics] = {}
    for row in groups.to_pylist():
        part = KeyStatistics(row["count_all"], _span(row, "time"), _span(row, "id"))
        _add(total, (row["key"] or b"").decode("utf-8", "replace"), part)
    return total


def _span(row: Mapping[str, Any], name: str) -> Span | None:
    first = row[f"{name}_min"]
    return None if first is None else (first, row[f"{name}_max"])


def payload(table: arrow.Table | arrow.RecordBatch) -> arrow.Array:
    """Return the bytes of each record's key and value."""
    lengths = (
        pc.fill_null(pc.binary_length(table.column(name)), 0).cast(pa.int64())
        for name in ("key", "value")
    )
    return pc.add(*lengths)


def schema_ids(table: arrow.Table) -> list[int | None]:
    """Return the schema id in each value's framing; None for a value that isn't framed."""
    return [_schema_id(value) for value in table.column("value").to_pylist()]


def _schema_id(value: bytes | None) -> int | None:
    try:
        schema_id, _ = framing.split(value)
    except framing.FramingError:
        return None
    return schema_id if schema_id < _MAX_SCHEMA_ID else None


def merged(
    replaced: Sequence[RawObject], keys: dict[str, KeyStatistics]
) -> dict[str, KeyStatistics]:
    """Return the statistics of the records of `replaced` and of those described by `keys`."""
    total = dict(keys)
    for item in replaced:
        for key, part in item.keys.items():
            _add(total, key, part)
    return total


def _add(total: dict[str, KeyStatistics], key: str, part: KeyStatistics) -> None:
    total[key] = part.plus(total[key]) if key in total else part


def build(
    topic: str, table: arrow.Table, keys: dict[str, KeyStatistics]
) -> tuple[RawObject, bytes]:
    """Build an object from records of one partition; return it and its bytes.

    Args:
        topic: The topic.
        table: Columns partition, offset, timestamp, timestampType, key, value, headers, schema_id,
            in order of the offsets.
        keys: The records' statistics.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({"topic": topic}),
        buffer,
        compression="zstd",
        store_schema=False,
        **_COLUMNS,
    )
    data = buffer.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    first, last = (table.column("offset")[at].as_py() for at in (0, -1))
    appended = table.column("timestamp").cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    # A broker's clock can be set back within an object.
    began, newest = appended[0].as_py(), pc.max(appended).as_py()
    events: Span | None = None
    for part in keys.values():
        events = enclosing(events, part.times)
    item = RawObject(
        key=_key(topic, table.column("partition")[0].as_py(), (first, last), began, digest),
        first=first,
        last=last,
        records=len(table),
        size=len(data),
        payload=pc.sum(payload(table)).as_py() or 0,
        sha256=digest,
        appended=(began, newest),
        events=events,
        keys=keys,
    )
    return item, data


def parse(data: bytes, sha256: str) -> arrow.Table | None:
    """Return the records of an object; None if its digest differs."""
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return pq.read_table(pa.BufferReader(data))


def _key(topic: str, partition: int, offsets: Span, appended: int, digest: str) -> str:
    """Return a name based on the contents, so that no write replaces another object."""
    moment = datetime.fromtimestamp(appended // 1_000_000, UTC)
    return (
        f"{RAW}/{topic}/date={moment:%Y-%m-%d}/hour={moment:%H}/"
        f"{partition}-{offsets[0]:020d}-{offsets[1]:020d}-{digest[:16]}.parquet"
    )
