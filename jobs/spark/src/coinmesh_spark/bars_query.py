"""The query that folds trades into bars."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from time import time_ns
from typing import Final

import msgspec
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.streaming.query import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark import failpoints, fold_task, reads, traces
from coinmesh_spark.continuity import Checkpoint, Continuity
from coinmesh_spark.fold_task import Plan, Report
from coinmesh_spark.gate import Gate
from coinmesh_spark.session import BARS_POOL, jvm_pid, kafka_options
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.snapshots import SnapshotError, Snapshots

_log = logging.getLogger(__name__)

NAME: Final = "bars"
SLOW_SECONDS: Final = 3.0


def continuity(settings: StreamSettings) -> Continuity:
    """Return the continuity check of the query's checkpoint and snapshots."""
    return Continuity(
        Checkpoint(settings.spark_checkpoint_dir.absolute() / NAME, topics.TRADES.name),
        Snapshots(settings.spark_snapshot_dir.absolute()),
        settings.rules(),
    )


class BarsQuery:
    """Runs batches; `on_batch` is called with the reports of each batch's tasks."""

    patience = 0.5

    def __init__(
        self,
        settings: StreamSettings,
        schema_ids: dict[str, int],
        on_batch: Callable[[int, list[Report]], None],
    ) -> None:
        self._settings, self._schema_ids, self._on_batch = settings, schema_ids, on_batch
        self._rules = settings.rules()
        self._checkpoint = settings.spark_checkpoint_dir.absolute() / NAME
        self._snapshots = settings.spark_snapshot_dir.absolute()
        self._continuity = continuity(settings)
        self._pids = {"driver": os.getpid()}
        self.fatal: Exception | None = None
        self.gate = Gate()

    def check(self) -> None:
        """Check that checkpoint and snapshots belong together.

        Raises:
            SnapshotError: They don't.
        """
        self._continuity.check()

    def start(self, session: SparkSession) -> StreamingQuery:
        """Start the query at its checkpoint."""
        self._pids["jvm"] = jvm_pid(session)
        traced = functions.expr(traces.EXPRESSION).alias(traces.COLUMN)
        session.sparkContext.setLocalProperty("spark.scheduler.pool", BARS_POOL)
        return (
            session.readStream.format("kafka")
            .options(**kafka_options(self._settings))
            .option("subscribe", topics.TRADES.name)
            .option("includeHeaders", "true")
            .option("maxOffsetsPerTrigger", str(self._settings.spark_max_offsets))
            .load()
            .select(
                "partition",
                "offset",
                "timestamp",
                "key",
                "value",
                traced,
            )
            .writeStream.queryName(NAME)
            .option("checkpointLocation", str(self._checkpoint))
            .trigger(processingTime=f"{round(self._settings.spark_trigger * 1000)} milliseconds")
            .foreachBatch(self._run)
            .start()
        )

    def _run(self, frame: DataFrame, batch: int) -> None:
        with self.gate.open():
            self._run_batch(frame, batch)

    def _run_batch(self, frame: DataFrame, batch: int) -> None:
        begun_ns = time_ns()
        try:
            starts, ends = self._continuity.starts(batch), self._continuity.ends(batch)
        except SnapshotError as error:
            # Running the batch again would not help.
            self.fatal = error
            raise
        plan = Plan(
            batch=batch,
            checkpoint=self._continuity.checkpoint_id,
            starts=starts,
            ends=ends,
            directory=self._snapshots,
            rules=self._rules,
            schema_ids=self._schema_ids,
            pids=self._pids,
            begun_ns=begun_ns,
        )
        results = frame.mapInArrow(fold_task.function(plan), fold_task.RESULT).collect()
        reports = [msgspec.json.decode(row["report"], type=Report) for row in results]
        failpoints.reach("reported", batch, self._pids)
        reads.check_reports(
            [report.partition for report in reports],
            {number: start.next_offset for number, start in starts.items()},
            ends,
            partial(reads.visible_offsets, self._settings, topics.TRADES.name),
        )
        self._continuity.record(batch, {report.partition: report.file for report in reports})
        failpoints.reach("committed", batch, self._pids)
        self._on_batch(batch, reports)
        if (took := (time_ns() - begun_ns) / 1e9) > SLOW_SECONDS:
            extra = {"step_seconds": _longest(reports)}
            _log.info("batch %d took %.1f s", batch, took, extra=extra)


def _longest(reports: Iterable[Report]) -> dict[str, float]:
    """Return the duration of each step in the partition in which it took longest."""
    longest: dict[str, float] = {}
    for report in reports:
        for step, seconds in report.seconds.items():
            longest[step] = max(longest.get(step, 0.0), seconds)
    return longest
