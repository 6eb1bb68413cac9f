"""The application's metrics, including lag, because Spark commits no offsets to Kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from pyspark.sql.streaming.query import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark.archive_task import Report as ArchiveReport
from coinmesh_spark.fold_task import Report
from meshkit.metrics import Metrics

_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class StreamMetrics:
    """Counts the reports of batches; `follow` adds Spark's data about a query's progress."""

    def __init__(self, metrics: Metrics) -> None:
        self._batch_seconds = metrics.histogram(
            "spark_batch_seconds", "How long batches took", ("query",), _SECONDS
        )
        self._step_seconds = metrics.histogram(
            "spark_task_step_seconds", "How long a task's steps took", ("step",), _SECONDS
        )
        self._trades = metrics.counter("spark_trades", "Trades that joined bars", ("partition",))
        self._records = metrics.counter("spark_records", "Records read", ("partition",))
        self._duplicates = metrics.counter(
            "spark_duplicate_trades", "Trades that had been seen", ("partition",)
        )
        self._late = metrics.counter(
            "spark_late_trades", "Trades left to the batch because they came too late",
            ("partition",),
        )  # fmt: skip
        self._dead = metrics.counter("spark_dead_letters", "Records given up", ("reason",))
        self._rows = metrics.counter("spark_rows", "Rows written to Cassandra", ("table",))
        self._snapshot = metrics.gauge(
            "spark_snapshot_bytes", "Size of a partition's state", ("partition",)
        )
        self._instruments = metrics.gauge(
            "spark_state_instruments", "Instruments in a partition's state", ("partition",)
        )
        self._lag = metrics.gauge(
            "spark_lag_records", "Records not processed yet", ("query", "topic", "partition")
        )
        self._lag_seconds = metrics.gauge(
            "spark_lag_seconds",
            "Age of the newest processed record while there are newer ones, 0 without lag",
            ("query", "topic", "partition"),
        )
        self._progress = metrics.gauge(
            "spark_query_progress_time_seconds",
            "When a query's last trigger ended, found it something or not; Unix time",
            ("query",),
        )
        self._delay = metrics.histogram(
            "spark_bar_delay_seconds",
            "From a partition's newest record's append to the end of the batch that has it",
            (),
            _SECONDS,
        )
        self._fresh = metrics.gauge(
            "spark_newest_event_seconds", "Newest event time, seconds since the Unix epoch",
            ("partition",),
        )  # fmt: skip
        self._up = metrics.gauge(
            "spark_query_up", "1 while a query runs and has committed or found nothing", ("query",)
        )
        self._restarts = metrics.counter("spark_query_restarts", "Restarts", ("query",))
        self._objects = metrics.counter("spark_archive_objects", "Objects written", ("topic",))
        self._archived = metrics.counter("spark_archive_records", "Records archived", ("topic",))
        self._archive_bytes = metrics.counter("spark_archive_bytes", "Bytes written", ("topic",))
        self._stopped = metrics.gauge(
            "spark_archive_stopped",
            "1 while a topic isn't archived: its next records or its manifest are lost",
            ("topic",),
        )
        self._appended: dict[tuple[str, str, int], int] = {}
        self._last_batch: dict[str, int] = {}

    def bars_batch(self, batch: int, reports: list[Report]) -> None:
        """Record a finished batch of bars."""
        del batch
        now = time.time()
        for report in reports:
            partition = str(report.partition)
            self._records.labels(partition).inc(report.records)
            self._trades.labels(partition).inc(report.trades)
            self._duplicates.labels(partition).inc(report.duplicates)
            self._late.labels(partition).inc(report.late)
            for reason, count in report.dead.items():
                self._dead.labels(reason).inc(count)
            self._rows.labels("bars").inc(report.bars)
            self._rows.labels("indicators").inc(report.indicators)
            self._snapshot.labels(partition).set(report.snapshot_bytes)
            self._instruments.labels(partition).set(report.instruments)
            self._fresh.labels(partition).set(report.newest / 1e6)
            self._delay.observe(max(0.0, now - report.appended / 1000))
            self._appended["bars", topics.TRADES.name, report.partition] = report.appended
            for step, seconds in report.seconds.items():
                self._step_seconds.labels(step).observe(seconds)

    def archive_batch(self, group: str, reports: list[ArchiveReport]) -> None:
        """Record a topic's part of an archive batch after it was listed in the manifest."""
        for report in reports:
            self._appended[group, report.topic, report.partition] = report.appended
            self._objects.labels(report.topic).inc(len(report.objects))
            self._archived.labels(report.topic).inc(report.records)
            self._archive_bytes.labels(report.topic).inc(report.size)
            for reason, count in report.dead.items():
                self._dead.labels(reason).inc(count)

    def archive_pass(self, group: str, seconds: float) -> None:
        """Record a successful pass of an archive group."""
        self._restarts.labels(group)
        self._up.labels(group).set(1)
        self._progress.labels(group).set(time.time())
        self._batch_seconds.labels(group).observe(seconds)

    def archive_failed(self, group: str) -> None:
        """Record a failed batch of the archive."""
        self._up.labels(group).set(0)
        self._restarts.labels(group).inc()

    def archive_stopped(self, topic: str, *, stopped: bool) -> None:
        """Set whether a topic waits for an operator: its next records or its manifest are lost."""
        self._stopped.labels(topic).set(stopped)

    def archive_lag(self, group: str, topic: str, partition: int, lag: int) -> None:
        """Set the number of a partition's records that aren't archived."""
        self._set_lag(group, topic, str(partition), lag)

    def restarted(self, query: str) -> None:
        """Count a restart of a query."""
        self._restarts.labels(query).inc()

    def follow(self, name: str, query: StreamingQuery) -> None:
        """Update state, lag and duration from a query's last progress."""
        self._restarts.labels(name)  # a query that never restarted shows 0
        last: Any = query.lastProgress
        # Spark also reports a trigger that found no records.
        self._up.labels(name).set(last is not None and query.isActive)
        if last is None:
            return
        progress: dict[str, Any] = msgspec.json.decode(last.json)
        took = progress["durationMs"].get("triggerExecution", 0) / 1000
        begun = datetime.fromisoformat(progress["timestamp"]).timestamp()
        self._progress.labels(name).set(begun + took)
        for source in progress["sources"]:
            self._take_lag(name, source)
        if progress["batchId"] != self._last_batch.get(name) and progress["numInputRows"]:
            self._last_batch[name] = progress["batchId"]
            self._batch_seconds.labels(name).observe(took)

    def _take_lag(self, name: str, source: Mapping[str, Any]) -> None:
        ends, latest = source.get("endOffset") or {}, source.get("latestOffset") or {}
        if not isinstance(ends, Mapping) or not isinstance(latest, Mapping):
            return
        for topic, partitions in latest.items():
            for number, offset in partitions.items():
                lag = max(0, offset - ends.get(topic, {}).get(number, 0))
                self._set_lag(name, topic, number, lag)

    def _set_lag(self, query: str, topic: str, partition: str, lag: int) -> None:
        self._lag.labels(query, topic, partition).set(lag)
        appended = self._appended.get((query, topic, int(partition)))
        if appended is not None:
            age = max(0.0, time.time() - appended / 1000) if lag else 0.0
            self._lag_seconds.labels(query, topic, partition).set(age)
