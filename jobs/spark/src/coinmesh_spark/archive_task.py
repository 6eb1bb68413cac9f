"""The archive's task: the records of one Kafka partition to objects, as they are.

An object is named by its first and last offset and cut by size alone, so a batch that is run again
writes the same objects. The trades' task also fills the table of recent trades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError
from pyarrow import fs

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_spark import failpoints, object_store
from coinmesh_spark.schema_texts import SchemaTexts
from coinmesh_spark.settings import ArchiveSettings
from coinmesh_spark.sinks import rows
from coinmesh_spark.sinks.cassandra import CassandraSink
from meshkit import settings

RESULT = "topic string, partition int, objects int, records long, bytes long, trades long"
_RESULT = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("objects", pa.int32()),
        ("records", pa.int64()),
        ("bytes", pa.int64()),
        ("trades", pa.int64()),
    ]
)
TRADE_CONCURRENCY = 8
"""Few writes at a time: the bars' writes go first."""


@dataclass(frozen=True)
class Plan:
    """What the driver tells the archive's tasks.

    Attributes:
        batch: The batch's number.
        max_bytes: Bytes of keys and values in an object, at most (unless one record exceeds it).
        trades: Whether to fill the table of recent trades.
        pids: Process ids of the driver and its JVM, for failpoints.
    """

    batch: int
    max_bytes: int
    trades: bool
    pids: dict[str, int]


class _Store:
    """What a worker process keeps between tasks."""

    def __init__(self) -> None:
        self._settings = settings.read(ArchiveSettings)
        self.bucket = self._settings.s3_bucket
        self.files = object_store.connect(self._settings)
        self._known_schemas: set[int] = set()

    @cached_property
    def cassandra(self) -> CassandraSink:
        return CassandraSink(self._settings)

    @cached_property
    def _texts(self) -> SchemaTexts:
        return SchemaTexts(self._settings)

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        with self.files.open_output_stream(f"{self.bucket}/{key}") as stream:
            stream.write(data)

    def keep_schema(self, schema_id: int) -> None:
        """Store a schema's text unless it is there; ids that nobody registered are skipped."""
        if schema_id in self._known_schemas:
            return
        key = object_store.schema_object(schema_id)
        there = self.files.get_file_info(f"{self.bucket}/{key}").type == fs.FileType.File
        if not there and (found := self._texts.read(schema_id)) is not None:
            text, imports = found
            for name, imported in imports.items():
                self.put(object_store.reference_object(schema_id, name), imported.encode())
            self.put(key, text.encode())
        self._known_schemas.add(schema_id)


@cache
def _store() -> _Store:
    return _Store()


def function(plan: Plan) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """`run` as mapInArrow wants it."""
    return partial(run, plan)


def run(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Archive a partition's records."""
    store = _store()
    objects = records = size = trades = 0
    topic, partition = "", -1
    for table in _cut(batches, plan.max_bytes):
        topic, partition = table.column("topic")[0].as_py(), table.column("partition")[0].as_py()
        size += _archive(store, topic, partition, table)
        objects += 1
        records += len(table)
        failpoints.reach("archived", plan.batch, plan.pids)
        if plan.trades and topic == topics.TRADES.name:
            trades += store.cassandra.write(trade_rows(table), TRADE_CONCURRENCY)
    if objects:
        report = [[topic], [partition], [objects], [records], [size], [trades]]
        arrays = [pa.array(v, f.type) for v, f in zip(report, _RESULT, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_RESULT)


def _cut(batches: Iterator[pa.RecordBatch], max_bytes: int) -> Iterator[pa.Table]:
    """The records in pieces of about `max_bytes`; the cuts depend on the records alone."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        lengths = sum(
            pc.fill_null(pc.binary_length(batch.column(name)), 0).to_numpy().astype(np.int64)
            for name in ("key", "value")
        )
        begin = 0
        for row, length in enumerate(lengths.tolist()):
            if size and size + length > max_bytes:
                held.append(batch.slice(begin, row - begin))
                yield pa.Table.from_batches(held)
                held, size, begin = [], 0, row
            size += length
        held.append(batch.slice(begin))
    if size or any(len(batch) for batch in held):
        yield pa.Table.from_batches(held)


def _archive(store: _Store, topic: str, partition: int, table: pa.Table) -> int:
    schema_ids = [_schema_id(value) for value in table.column("value").to_pylist()]
    for schema_id in sorted({schema_id for schema_id in schema_ids if schema_id is not None}):
        store.keep_schema(schema_id)
    offsets = table.column("offset")
    appended = table.column("timestamp").cast(pa.int64())[0].as_py()
    table = table.drop_columns(["topic"]).append_column(
        "schema_id", pa.array(schema_ids, pa.int32())
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({"topic": topic}),
        buffer,
        compression="zstd",
        use_dictionary=["key", "partition", "timestampType", "schema_id"],
        write_statistics=["offset", "timestamp"],
        store_schema=False,
    )
    data = buffer.getvalue()
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    store.put(object_store.raw_object(topic, partition, first, last, appended), data)
    return data.size


def _schema_id(value: bytes | None) -> int | None:
    try:
        schema_id, _ = framing.split(value)
    except framing.FramingError:
        return None
    return schema_id if schema_id < 1 << 31 else None


def trade_rows(table: pa.Table) -> Iterator[rows.Row]:
    """Rows of the table of recent trades; records that are none are the bars' to report."""
    trade: Any
    for value in table.column("value").to_pylist():
        try:
            _, payload = framing.split(value)
            trade = Trade.FromString(payload)
        except (framing.FramingError, DecodeError):
            continue
        if trade.event_time > 0 and trade.trade_id < 1 << 63 and trade.instrument:
            yield rows.trade_row(trade)
