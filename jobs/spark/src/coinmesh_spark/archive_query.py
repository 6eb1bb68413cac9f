"""The query that archives every topic as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark import archive_task
from coinmesh_spark.gate import Gate
from coinmesh_spark.session import ARCHIVE_POOL, jvm_pid, kafka_options
from coinmesh_spark.settings import StreamSettings

NAME: Final = "archive"
_POLL_SECONDS: Final = 5.0
"""How often the query looks whether there is a whole batch."""
_ARROW_RECORDS: Final = "500"
"""Records in an Arrow batch: Spark measures a batch after each record, and goes through the lengths
of all headers in it each time.
"""


class ArchiveQuery:
    """Runs batches; `on_batch` is told what each one's tasks did."""

    # It writes once a minute, and each start takes CPU that the bars need.
    patience = 5.0

    def __init__(
        self,
        settings: StreamSettings,
        schemas: dict[str, int],
        on_batch: Callable[[int, list[Row]], None],
    ) -> None:
        self._settings, self._schemas, self._on_batch = settings, schemas, on_batch
        self._pids = {"driver": os.getpid()}
        self.fatal: Exception | None = None
        self.gate = Gate()

    def check(self) -> None:
        """Nothing to check: an archive batch depends on its offsets alone."""

    def start(self, session: SparkSession) -> StreamingQuery:
        """Start the query where its checkpoint stands."""
        self._pids["jvm"] = jvm_pid(session)
        session.sparkContext.setLocalProperty("spark.scheduler.pool", ARCHIVE_POOL)
        most, delay = self._settings.spark_archive_max_offsets, self._settings.spark_archive_trigger
        poll = min(_POLL_SECONDS, delay)
        return (
            session.readStream.format("kafka")
            .options(**kafka_options(self._settings))
            .option("subscribe", ",".join(topic.name for topic in topics.ARCHIVED))
            .option("includeHeaders", "true")
            .option("maxOffsetsPerTrigger", str(most))
            # While it is behind by a whole batch, the next one begins without the delay.
            .option("minOffsetsPerTrigger", str(most))
            .option("maxTriggerDelay", f"{round(delay * 1000)}ms")
            .load()
            .select(
                "topic",
                "partition",
                "offset",
                "timestamp",
                "timestampType",
                "key",
                "value",
                "headers",
            )
            .writeStream.queryName(NAME)
            .option(
                "checkpointLocation", str(self._settings.spark_checkpoint_dir.absolute() / NAME)
            )
            .trigger(processingTime=f"{round(poll * 1000)} milliseconds")
            .foreachBatch(self._run)
            .start()
        )

    def _run(self, frame: DataFrame, batch: int) -> None:
        plan = archive_task.Plan(
            batch=batch,
            max_bytes=self._settings.spark_archive_max_bytes,
            trades=self._settings.spark_archive_trades,
            schemas=self._schemas,
            pids=self._pids,
        )
        task = archive_task.function(plan)
        # The other half of the slots is always the bars', whatever the store and the registry do.
        slots = max(1, frame.sparkSession.sparkContext.defaultParallelism // 2)
        frame.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _ARROW_RECORDS)
        with self.gate.open():
            done = frame.coalesce(slots).mapInArrow(task, archive_task.RESULT).collect()
        self._on_batch(batch, done)
