"""The archive's task: the records of some Kafka partitions to objects, as they are.

An object is named by its first and last offset and cut by size alone, so a batch that is run again
writes the same objects. Trades also fill the table of recent trades. What is not an
event of its topic is archived like all else, and told as a dead letter; the trades' are the bars'
query's to tell.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError
from pyarrow import fs

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_spark import failpoints, object_store
from coinmesh_spark.decode import Decoder
from coinmesh_spark.schema_texts import SchemaTexts
from coinmesh_spark.settings import ArchiveSettings
from coinmesh_spark.sinks import rows
from coinmesh_spark.sinks.cassandra import CassandraSink
from coinmesh_spark.sinks.dead_letters import TOPIC as DEAD_LETTERS
from coinmesh_spark.sinks.dead_letters import dead_letter
from coinmesh_spark.sinks.kafka import KafkaSink
from coinmesh_spark.trades import MICROS
from meshkit import logs, settings
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.tls import certificate_files

RESULT = (
    "topic string, partition int, appended long, objects int, records long, bytes long,"
    " trades long, dead string"
)
#: Its functions are created at import, where a type checker doesn't see them.
pc: Any = pyarrow.compute
_RESULT = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("appended", pa.int64()),
        ("objects", pa.int32()),
        ("records", pa.int64()),
        ("bytes", pa.int64()),
        ("trades", pa.int64()),
        ("dead", pa.string()),
    ]
)
_TOLD_ELSEWHERE = {topics.TRADES.name, topics.DEAD_LETTERS.name}
_MAX_SCHEMAS = 10_000
#: Which columns have dictionaries and statistics; pyarrow types both as bool alone.
_COLUMNS: Mapping[str, Any] = {
    "use_dictionary": ["key", "partition", "timestampType", "schema_id"],
    "write_statistics": ["offset", "timestamp"],
}
TRADE_CONCURRENCY = 8
"""Few writes at a time: the bars' writes go first."""


@dataclass(frozen=True)
class Plan:
    """What the driver tells the archive's tasks.

    Attributes:
        batch: The batch's number.
        max_bytes: Bytes of keys and values in an object, at most (unless one record exceeds it).
        trades: Whether to fill the table of recent trades.
        schemas: Each topic's schema id of this release; of any other the registry is asked.
        pids: Process ids of the driver and its JVM, for failpoints.
    """

    batch: int
    max_bytes: int
    trades: bool
    schemas: dict[str, int]
    pids: dict[str, int]


class _Store:
    """What a worker process keeps between tasks."""

    def __init__(self) -> None:
        self._settings = settings.read(ArchiveSettings)
        logs.configure(self._settings.service_name, self._settings.log_level)
        self.bucket = self._settings.s3_bucket
        self.files = object_store.connect(self._settings)
        self._known_schemas: set[int] = set()
        self._accepted: dict[tuple[str, int], bool] = {}
        self._renewals = Renewals(self._version)

    def _version(self) -> object:
        files = certificate_files(self._settings)
        return files and files.version(), self._settings.s3_credentials()

    @property
    def stale(self) -> bool:
        """Whether the connections were made with a certificate or keys renewed since."""
        return self._renewals.pending() is not None

    def remember(self, before: _Store) -> None:
        """Take over what is known of schemas: while the registry is restarted for a certificate of
        its own, tasks that ask it would keep the bars' tasks waiting.
        """
        self._known_schemas, self._accepted = before._known_schemas, before._accepted

    def close(self) -> None:
        """Let go of the connections."""
        if "cassandra" in self.__dict__:
            self.cassandra.close()

    @cached_property
    def cassandra(self) -> CassandraSink:
        return CassandraSink(self._settings)

    @cached_property
    def kafka(self) -> KafkaSink:
        return KafkaSink(self._settings, self._settings.service_name)

    @cached_property
    def _registry(self) -> Registry:
        return Registry(self._settings)

    @property
    def name(self) -> str:
        return self._settings.service_name

    def accepts(self, topic: str, schema_id: int) -> bool:
        """Whether a schema id is one of a topic's.

        Raises:
            Unavailable: The registry doesn't answer.
        """
        if not 0 < schema_id < 1 << 31:
            return False
        known = self._accepted.get((topic, schema_id))
        if known is None:
            known = self._registry.accepts_now(topic, schema_id)
            if known and len(self._accepted) < _MAX_SCHEMAS:
                self._accepted[topic, schema_id] = known
        return known

    @cached_property
    def trades(self) -> Decoder:
        """Which records of the trades' topic are trades; the bars' query judges by the same."""
        ahead = round(self._settings.spark_ahead_seconds * MICROS)
        return Decoder(set(), partial(self.accepts, topics.TRADES.name), ahead)

    @cached_property
    def _texts(self) -> SchemaTexts:
        return SchemaTexts(self._settings)

    def put(self, key: str, data: bytes | pa.Buffer) -> None:
        """Write an object.

        Raises:
            Unavailable: The store doesn't take it.
        """

        def write() -> None:
            with self.files.open_output_stream(f"{self.bucket}/{key}") as stream:
                stream.write(data)

        object_store.answered(write, self._settings)

    def has(self, key: str) -> bool:
        """Whether there is an object; errors as `put`."""
        path = f"{self.bucket}/{key}"
        info = object_store.answered(lambda: self.files.get_file_info(path), self._settings)
        return info.type == fs.FileType.File

    def keep_schema(self, schema_id: int) -> None:
        """Store a schema's text unless it is there; ids that nobody registered are skipped."""
        if schema_id in self._known_schemas:
            return
        key = object_store.schema_object(schema_id)
        if not self.has(key) and (found := self._texts.read(schema_id)) is not None:
            text, imports = found
            for name, imported in imports.items():
                self.put(object_store.reference_object(schema_id, name), imported.encode())
            self.put(key, text.encode())
        self._known_schemas.add(schema_id)


def _store() -> _Store:
    store = _kept_store()
    if store.stale:
        _kept_store.cache_clear()
        store.close()
        _kept_store().remember(store)
    return _kept_store()


@cache
def _kept_store() -> _Store:
    return _Store()


def function(plan: Plan) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """`run` as mapInArrow wants it."""
    return partial(run, plan)


def run(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Archive the records of some partitions, which come one after the other."""
    store = _store()
    for (topic, partition), records in groupby(_runs(batches), key=itemgetter(0)):
        yield _partition(store, plan, topic, partition, map(itemgetter(1), records))


def _runs(
    batches: Iterator[pa.RecordBatch],
) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """The records in pieces that are of one partition, with this."""
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
    store: _Store, plan: Plan, topic: str, partition: int, batches: Iterator[pa.RecordBatch]
) -> pa.RecordBatch:
    """Archive a partition's records; what was done."""
    objects = records = size = trades = appended = 0
    dead: Counter[str] = Counter()
    for table in _cut(batches, plan.max_bytes):
        size += _archive(store, topic, partition, table)
        appended = table.column("timestamp").cast(pa.int64())[-1].as_py() // 1000
        objects += 1
        records += len(table)
        failpoints.reach("archived", plan.batch, plan.pids)
        if topic not in _TOLD_ELSEWHERE:
            dead += _dead_letters(store, topic, table, plan.schemas)
        if plan.trades and topic == topics.TRADES.name:
            found = trade_rows(table, store.trades)
            trades += store.cassandra.write(found, TRADE_CONCURRENCY)
    report = (topic, partition, appended, objects, records, size, trades, json.dumps(dead))
    arrays = [pa.array([v], f.type) for v, f in zip(report, _RESULT, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_RESULT)


def _cut(batches: Iterator[pa.RecordBatch], max_bytes: int) -> Iterator[pa.Table]:
    """The records in pieces of about `max_bytes`; the cuts depend on the records alone."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        keys, values = (
            pc.fill_null(pc.binary_length(batch.column(name)), 0).to_numpy().astype(np.int64)
            for name in ("key", "value")
        )
        begin = 0
        for row, length in enumerate((keys + values).tolist()):
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
        store_schema=False,
        **_COLUMNS,
    )
    data = buffer.getvalue()
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    store.put(object_store.raw_object(topic, partition, first, last, appended), data)
    return data.size


def _dead_letters(
    store: _Store, topic: str, table: pa.Table, schemas: dict[str, int]
) -> Counter[str]:
    """Tell of the records that are not events of their topic; how many, by reason."""
    known = topics.BY_NAME[topic]
    if known.message is None:
        return Counter()
    header = framing.header(schemas[DEAD_LETTERS])
    dead: Counter[str] = Counter()
    for row, value in enumerate(table.column("value").to_pylist()):
        if value is None and known.retention_days is None:
            continue  # a compacted topic's way to forget a key
        try:
            found, payload = framing.split(value)
            if found == schemas.get(topic) or store.accepts(topic, found):
                known.message.FromString(payload)
                continue
            reason, detail = "UNKNOWN_SCHEMA_ID", f"schema id {found} isn't one of {topic}'s"
        except framing.FramingError as error:
            reason, detail = error.reason, str(error)
        except DecodeError as error:
            reason, detail = "BAD_PROTOBUF", str(error)
        key, letter = dead_letter(
            topic, table, row, reason=reason, detail=detail, reporter=store.name
        )
        store.kafka.send(DEAD_LETTERS, key, header + letter)
        dead[reason] += 1
    if dead:
        store.kafka.flush()
    return dead


def _schema_id(value: bytes | None) -> int | None:
    try:
        schema_id, _ = framing.split(value)
    except framing.FramingError:
        return None
    return schema_id if schema_id < 1 << 31 else None


def trade_rows(table: pa.Table, decoder: Decoder) -> Iterator[rows.Row]:
    """Rows of the table of recent trades; records that are none are the bars' to report."""
    for batch in table.to_batches():
        values = batch.column("value")
        for row in decoder.decode(batch).rows.tolist():
            _, payload = framing.split(values[row].as_py())
            yield rows.trade_row(Trade.FromString(payload))
