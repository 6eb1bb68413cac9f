"""The query that folds trades into bars: its batches, and how snapshots and checkpoint agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark import failpoints, fold_task
from coinmesh_spark.fold_task import Plan, Report
from coinmesh_spark.session import BARS_POOL, jvm_pid, kafka_options
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.snapshots import FORMAT, Manifest, PartitionState, SnapshotError, Snapshots

NAME: Final = "bars"
_TOPIC: Final = topics.TRADES.name
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class Checkpoint:
    """What Spark's checkpoint directory says about a query that reads one topic."""

    def __init__(self, directory: Path, topic: str) -> None:
        self.directory, self._topic = directory, topic

    @property
    def id(self) -> str | None:
        """The id that Spark gave the checkpoint; None before the first start."""
        try:
            return str(_OBJECT.decode((self.directory / "metadata").read_bytes())["id"])
        except FileNotFoundError:
            return None

    def next_batch(self) -> int:
        """The batch that Spark will run next, be it for the first time or again."""
        planned, done = self._newest("offsets"), self._newest("commits")
        return planned if planned > done else done + 1

    def ends(self, batch: int) -> dict[int, int] | None:
        """The offset after the last one of each partition; None if the batch wasn't planned."""
        try:
            lines = (self.directory / "offsets" / str(batch)).read_bytes().splitlines()
        except FileNotFoundError:
            return None
        offsets = _OBJECT.decode(lines[-1]).get(self._topic, {})
        return {int(partition): int(offset) for partition, offset in offsets.items()}

    def _newest(self, log: str) -> int:
        names = (path.name for path in (self.directory / log).glob("*"))
        return max((int(name) for name in names if name.isdigit()), default=-1)


class BarsQuery:
    """Runs batches; `on_batch` is told about each one that is through."""

    def __init__(
        self,
        settings: StreamSettings,
        schema_ids: dict[str, int],
        on_batch: Callable[[int, list[Report]], None],
    ) -> None:
        self._settings, self._schema_ids, self._on_batch = settings, schema_ids, on_batch
        self._rules = settings.rules()
        self._checkpoint = Checkpoint(settings.spark_checkpoint_dir.absolute() / NAME, _TOPIC)
        self._snapshots = Snapshots(settings.spark_snapshot_dir.absolute())
        self._pids = {"driver": os.getpid()}
        self.fatal: Exception | None = None

    def check(self) -> None:
        """Whether checkpoint and snapshots belong together.

        Raises:
            SnapshotError: They don't; the message names both and the way out.
        """
        checkpoint, directory = self._checkpoint, self._snapshots.directory
        batch = checkpoint.next_batch()
        found = self._snapshots.batches()
        if batch == 0:
            # A crash in the first batch may leave its manifest before Spark's commit.
            if found and (found != [0] or checkpoint.id is None):
                raise SnapshotError(
                    f"{directory} holds a state up to batch {found[-1]}, but checkpoint "
                    f"{checkpoint.directory} has run no batch. {_WAY_OUT}"
                )
            return
        manifest = self._snapshots.manifest(batch - 1)
        if manifest is None:
            held = f"batches {found[0]} to {found[-1]}" if found else "none"
            raise SnapshotError(
                f"checkpoint {checkpoint.directory} goes on with batch {batch}, which needs the "
                f"snapshot of batch {batch - 1}, but {directory} holds {held}. {_WAY_OUT}"
            )
        self._agree(manifest)

    def start(self, session: SparkSession) -> StreamingQuery:
        """Start the query where its checkpoint stands."""
        self.fatal = None
        self._pids["jvm"] = jvm_pid(session)
        session.sparkContext.setLocalProperty("spark.scheduler.pool", BARS_POOL)
        return (
            session.readStream.format("kafka")
            .options(**kafka_options(self._settings))
            .option("subscribe", _TOPIC)
            .option("maxOffsetsPerTrigger", str(self._settings.spark_max_offsets))
            .load()
            .select("partition", "offset", "timestamp", "key", "value")
            .writeStream.queryName(NAME)
            .option("checkpointLocation", str(self._checkpoint.directory))
            .trigger(processingTime=f"{round(self._settings.spark_trigger * 1000)} milliseconds")
            .foreachBatch(self._run)
            .start()
        )

    def _run(self, frame: DataFrame, batch: int) -> None:
        try:
            starts = self._starts(batch)
        except SnapshotError as error:
            self.fatal = error
            raise
        plan = Plan(
            batch, starts, self._snapshots.directory, self._rules, self._schema_ids, self._pids
        )
        results = frame.mapInArrow(fold_task.function(plan), fold_task.RESULT).collect()
        reports = [msgspec.json.decode(row["report"], type=Report) for row in results]
        failpoints.reach("reported", batch, self._pids)
        self._snapshots.commit(self._manifest(batch, starts, reports))
        failpoints.reach("committed", batch, self._pids)
        self._on_batch(batch, reports)

    def _starts(self, batch: int) -> dict[int, PartitionState]:
        """The state that a batch begins with, which is that after the one before, and no other."""
        if batch == 0:
            return {}
        manifest = self._snapshots.manifest(batch - 1)
        if manifest is None:
            raise SnapshotError(
                f"batch {batch} needs the snapshot of batch {batch - 1}, which is not in "
                f"{self._snapshots.directory}. {_WAY_OUT}"
            )
        self._agree(manifest)
        now = self._checkpoint.ends(batch)
        if now is not None and now.keys() != manifest.partitions.keys():
            raise SnapshotError(
                f"{_TOPIC} has {len(now)} partitions, but the state in "
                f"{self._snapshots.directory} was made with {len(manifest.partitions)}: its "
                f"instruments may have moved to other partitions. {_WAY_OUT}"
            )
        return manifest.partitions

    def _agree(self, manifest: Manifest) -> None:
        """Compare a manifest with the checkpoint's record of the same batch."""
        where = f"snapshot {manifest.batch} in {self._snapshots.directory}"
        if manifest.topic != _TOPIC or manifest.checkpoint != self._checkpoint.id:
            raise SnapshotError(
                f"{where} belongs to checkpoint {manifest.checkpoint} of {manifest.topic}, not to "
                f"{self._checkpoint.id} in {self._checkpoint.directory}. {_WAY_OUT}"
            )
        ends = self._checkpoint.ends(manifest.batch)
        ours = {number: part.next_offset for number, part in manifest.partitions.items()}
        if ends is not None and ends != ours:
            raise SnapshotError(
                f"{where} goes to offsets {ours}, but checkpoint {self._checkpoint.directory} "
                f"ended that batch at {ends}. {_WAY_OUT}"
            )

    def _manifest(
        self, batch: int, starts: dict[int, PartitionState], reports: list[Report]
    ) -> Manifest:
        """The state after a batch: new files where it had records, the old ones elsewhere."""
        files = {number: start.file for number, start in starts.items()}
        files |= {report.partition: report.file for report in reports}
        ends = self._checkpoint.ends(batch)
        if ends is None:
            raise SnapshotError(f"{self._checkpoint.directory} has no offsets of batch {batch}")
        return Manifest(
            format=FORMAT,
            checkpoint=self._checkpoint.id or "",
            batch=batch,
            topic=_TOPIC,
            partitions={
                number: PartitionState(end, files.get(number)) for number, end in ends.items()
            },
        )


_WAY_OUT: Final = (
    "Restore the two directories from the same backup, or run `coinmesh-spark reset` to fold the "
    "topic again from its first record (all writes are idempotent)"
)
