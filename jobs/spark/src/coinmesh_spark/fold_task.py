"""The task of one Kafka partition in one batch: decode, fold, write, snapshot.

All effects can be repeated: names and timestamps of rows and records are derived from their
content. The snapshot is written last; a batch that fails before its manifest is run again from the
previous snapshot.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter, time_ns

import msgspec
import numpy as np
import pyarrow as pa

from coinmesh_archive import arrow_types as arrow
from coinmesh_contracts import framing, topics
from coinmesh_spark import failpoints, fold
from coinmesh_spark.decode import Decoded, Decoder
from coinmesh_spark.fold import Changes, Rules
from coinmesh_spark.reads import check_read, visible_offsets
from coinmesh_spark.settings import WorkerSettings
from coinmesh_spark.sinks import rows
from coinmesh_spark.sinks.cassandra import CassandraSink
from coinmesh_spark.sinks.dead_letters import dead_letter
from coinmesh_spark.sinks.kafka import KafkaSink
from coinmesh_spark.snapshots import PartitionState, Snapshots
from coinmesh_spark.traces import MicroBatch
from coinmesh_spark.trades import MICROS, Trades
from meshkit import logs, settings, tracing
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.tls import certificate_files
from meshkit.tracing import Tracing

RESULT = "report binary"
"""The schema of a task's result: one row with its report."""


@dataclass(frozen=True)
class Plan:
    """Input of a batch's tasks, sent by the driver.

    Attributes:
        batch: The batch's number.
        checkpoint: Id of the checkpoint that it belongs to.
        starts: Each partition's state before it.
        ends: The offset after each partition's last one.
        directory: The snapshot directory.
        rules: Parameters of the fold.
        schema_ids: The schema id of each topic that is read or written.
        pids: Process ids of the driver and its JVM, for failpoints.
        begun_ns: When the driver started the batch, nanoseconds since the Unix epoch.
    """

    batch: int
    checkpoint: str
    starts: dict[int, PartitionState]
    ends: dict[int, int]
    directory: Path
    rules: Rules
    schema_ids: dict[str, int]
    pids: dict[str, int]
    begun_ns: int


class Report(msgspec.Struct):
    """The result of a task.

    Attributes:
        partition: Its Kafka partition.
        file: The partition's new snapshot.
        snapshot_bytes: Size of the snapshot.
        appended: Append time of its newest record, milliseconds since the Unix epoch.
        newest: Newest event time of the partition, microseconds.
        records: Number of records.
        trades: Trades added to bars.
        duplicates: Trades seen before.
        late: Trades that were too late.
        dead: Dead letters by reason.
        bars: Bar rows written.
        indicators: Indicator rows written.
        instruments: Instruments in its state.
        seconds: Duration of each step, including the wait for a slot and a worker.
    """

    partition: int
    file: str
    snapshot_bytes: int
    appended: int
    newest: int
    records: int
    trades: int
    duplicates: int
    late: int
    dead: dict[str, int]
    bars: int
    indicators: int
    instruments: int
    seconds: dict[str, float]


class _Sinks:
    """The connections that a worker process keeps between tasks."""

    def __init__(self) -> None:
        configured = settings.read(WorkerSettings)
        logs.configure(configured.service_name, configured.log_level)
        self.cassandra = CassandraSink(configured)
        self.kafka = KafkaSink(configured, configured.service_name)
        self.ahead = round(configured.spark_ahead_seconds * MICROS)
        self.tracing = _tracing()
        self._registry: Registry | None = None
        self._settings = configured
        files = certificate_files(configured)
        self._renewals = Renewals(files.version if files else None)

    @property
    def stale(self) -> bool:
        """Return whether the certificate was renewed after the connections were opened."""
        return self._renewals.pending() is not None

    def close(self) -> None:
        """Close the connections; nothing is in flight between tasks."""
        self.cassandra.close()
        if self._registry is not None:
            self._registry.close()

    def visible_offsets(self, topic: str, partition: int, start: int, end: int) -> list[int]:
        """Return the visible offsets, as `reads.visible_offsets`."""
        return visible_offsets(self._settings, topic, partition, start, end)

    def accepts(self, schema_id: int) -> bool:
        """Return whether a schema that was unknown at start belongs to the trades' topic."""
        if self._registry is None:
            self._registry = Registry(self._settings)
        return self._registry.accepts_now(topics.TRADES.name, schema_id)


@cache
def _tracing() -> Tracing:
    """Return the process's tracing; its exporter follows renewals, so it outlives the sinks."""
    return Tracing(settings.read(WorkerSettings))


def _sinks() -> _Sinks:
    sinks = _kept_sinks()
    if sinks.stale:
        _decoder.cache_clear()
        _kept_sinks.cache_clear()
        sinks.close()
    return _kept_sinks()


@cache
def _kept_sinks() -> _Sinks:
    sinks = _Sinks()
    # A batch creates many short-lived objects without cycles; the long-lived ones exist already.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    return sinks


@cache
def _decoder(schema_id: int) -> Decoder:
    sinks = _sinks()
    return Decoder({schema_id}, sinks.accepts, sinks.ahead)


def run(plan: Plan, batches: Iterator[arrow.RecordBatch]) -> Iterator[arrow.RecordBatch]:
    """Process a partition's records and yield a report."""
    batch = next(batches, None)
    if batch is None:
        return
    report = _Task(plan, batch.column("partition")[0].as_py()).run(_chain(batch, batches))
    data = pa.array([msgspec.json.encode(report)], pa.binary())
    yield pa.RecordBatch.from_arrays([data], ["report"])


def function(plan: Plan) -> Callable[[Iterator[arrow.RecordBatch]], Iterator[arrow.RecordBatch]]:
    """Return `run` in the form that mapInArrow requires."""
    return partial(run, plan)


def _chain(
    first: arrow.RecordBatch, rest: Iterator[arrow.RecordBatch]
) -> Iterator[arrow.RecordBatch]:
    yield first
    yield from rest


class _Task:
    def __init__(self, plan: Plan, partition: int) -> None:
        self._plan, self._partition = plan, partition
        self._reach = partial(failpoints.reach, batch=plan.batch, pids=plan.pids)
        self._seconds: dict[str, float] = {}
        self._clock = perf_counter()
        self._dead: dict[str, int] = {}

    def run(self, batches: Iterator[arrow.RecordBatch]) -> Report:
        plan, partition = self._plan, self._partition
        begun_ns = time_ns()
        self._seconds["wait"] = round((begun_ns - plan.begun_ns) / 1e9, 6)
        sinks = _sinks()
        snapshots = Snapshots(plan.directory)
        known = plan.starts[partition]
        state = snapshots.load(known.file)
        self._step("load")

        records, decoded = self._decode(batches)
        offsets = np.concatenate([batch.column("offset").to_numpy() for batch in records])
        first, last = int(offsets[0]), int(offsets[-1])
        visible = partial(sinks.visible_offsets, topics.TRADES.name)
        check_read(partition, offsets, known.next_offset, plan.ends[partition], visible)
        appended = max(_newest_append(batch) for batch in records)
        traced = MicroBatch(
            sinks.tracing,
            records,
            begun_ns,
            {
                tracing.TOPIC: topics.TRADES.name,
                tracing.PARTITION: str(partition),
                "coinmesh.batch": plan.batch,
                "coinmesh.records": len(offsets),
                "coinmesh.first_offset": first,
                "coinmesh.last_offset": last,
            },
        )
        self._reach("decoded")
        self._step("decode")

        trades = Trades.concatenated([part.trades for part in decoded])
        changes = fold.apply(state, trades, plan.rules)
        self._reach("folded")
        self._step("fold")

        run_name = f"stream:{plan.checkpoint}:{partition}:{plan.batch}:{first}-{last}"
        self._dead_letters(records, decoded, changes)
        with traced.asking("cassandra", "write bars"):
            written = sinks.cassandra.write(_rows(changes, run_name.encode()))
        self._reach("written")
        self._step("cassandra")

        self._send(changes, run_name, appended * 1_000_000, traced)
        sinks.kafka.flush()
        traced.sent()
        self._reach("sent")
        self._step("kafka")

        file, size = snapshots.save(plan.batch, partition, state)
        self._reach("saved")
        self._step("snapshot")
        traced.end()
        return Report(
            partition=partition,
            file=file,
            snapshot_bytes=size,
            appended=appended,
            newest=state.newest,
            records=len(offsets),
            trades=changes.admitted,
            duplicates=changes.duplicates,
            late=changes.late,
            dead=self._dead,
            bars=len(changes.bars),
            indicators=written - len(changes.bars),
            instruments=state.size,
            seconds=self._seconds,
        )

    def _step(self, name: str) -> None:
        now = perf_counter()
        self._seconds[name] = round(now - self._clock, 6)
        self._clock = now

    def _decode(
        self, batches: Iterator[arrow.RecordBatch]
    ) -> tuple[list[arrow.RecordBatch], list[Decoded]]:
        decoder = _decoder(self._plan.schema_ids[topics.TRADES.name])
        records: list[arrow.RecordBatch] = []
        decoded: list[Decoded] = []
        for batch in batches:
            records.append(batch)
            decoded.append(decoder.decode(batch))
        return records, decoded

    def _dead_letters(
        self, records: list[arrow.RecordBatch], decoded: list[Decoded], changes: Changes
    ) -> None:
        """Queue dead letters for the records that are no trades."""
        for batch, part in zip(records, decoded, strict=True):
            for bad in part.bad:
                self._give_up(batch, bad.row, bad.reason, bad.detail)
        ends = np.cumsum([len(part.trades) for part in decoded])
        for at, reason in changes.rejected:
            number = int(np.searchsorted(ends, at, side="right"))
            part = decoded[number]
            row = int(part.rows[at - int(ends[number]) + len(part.trades)])
            detail = "the price, size or their product can't be held in the instrument's units"
            self._give_up(records[number], row, reason, detail)

    def _give_up(self, batch: arrow.RecordBatch, row: int, reason: str, detail: str) -> None:
        reporter = settings.read(WorkerSettings).service_name
        key, letter = dead_letter(
            topics.TRADES.name, batch, row, reason=reason, detail=detail, reporter=reporter
        )
        self._dead[reason] = self._dead.get(reason, 0) + 1
        name = topics.DEAD_LETTERS.name
        _sinks().kafka.send(name, key, framing.header(self._plan.schema_ids[name]) + letter)

    def _send(self, changes: Changes, run_name: str, receive_time: int, traced: MicroBatch) -> None:
        """Queue all bars and indicators."""
        kafka, ids = _sinks().kafka, self._plan.schema_ids
        bars, indicators = topics.BARS.name, topics.INDICATORS.name
        header = framing.header(ids[bars])
        for at, bar in enumerate(changes.bars):
            key = bar.instrument.encode()
            value = header + rows.bar_event(bar, run_name, receive_time)
            kafka.send(bars, key, value, traced.headers(bar))
            if at == len(changes.bars) // 2 and os.environ.get("COINMESH_SPARK_FAILPOINTS"):
                kafka.flush()
                self._reach("half")
        header = framing.header(ids[indicators])
        for changed in changes.indicators:
            key = changed.instrument.encode()
            for event in rows.indicator_events(changed, run_name, receive_time):
                kafka.send(indicators, key, header + event)


def _rows(changes: Changes, run_name: bytes) -> Iterator[rows.Row]:
    for bar in changes.bars:
        yield rows.bar_row(bar, run_name)
    for indicators in changes.indicators:
        yield rows.indicators_row(indicators, run_name)


def _newest_append(batch: arrow.RecordBatch) -> int:
    """Return the newest append time, milliseconds since the Unix epoch."""
    return int(batch.column("timestamp").cast(pa.int64()).to_numpy().max()) // 1000
