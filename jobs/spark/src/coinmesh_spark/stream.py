"""The application: the bars' query and the archive in one monitored Spark session."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import re
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from confluent_kafka.admin import AdminClient
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark import archive, bars_query, session
from coinmesh_spark.archive import Archive
from coinmesh_spark.bars_query import BarsQuery
from coinmesh_spark.causes import fold_cause
from coinmesh_spark.gate import Gate
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.snapshots import SnapshotError
from coinmesh_spark.stream_metrics import StreamMetrics
from meshkit import log_counts, metrics
from meshkit.backoff import Backoff
from meshkit.kafka import await_topics, client_config
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.settings import PREFIX, Address, ServiceSettings, SettingsError
from meshkit.tls import certificate_files

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.5
# Maximum time that a renewal waits for the current batch.
_BATCH_SECONDS: Final = 10.0


class JvmLostError(Exception):
    """Spark's JVM has died; only a new process helps."""


class Query(Protocol):
    """A streaming query of the application."""

    fatal: Exception | None
    gate: Gate
    patience: float
    """Longest wait before the first restart after a failure, in seconds."""

    def check(self) -> None:
        """Raise if the query must not start."""

    def start(self, session: SparkSession) -> StreamingQuery:
        """Start the query at its checkpoint."""
        ...


def run(settings: StreamSettings, only: str | None, stop: threading.Event) -> None:
    """Run until `stop` is set.

    Raises:
        MeshError: Registry or Kafka don't answer, or a schema or topic is missing.
        SettingsError: A setting or directory is wrong.
        SnapshotError: Checkpoint and snapshots don't belong together.
        JvmLostError: Spark's JVM died.
    """
    numbers = metrics.Metrics()
    with _only_one(settings), log_counts.counted(numbers):
        known = Registry(settings).resolve_now(
            {topic.name: topic.message for topic in topics.ALL if topic.message}
        )
        admin = AdminClient(client_config(settings, settings.service_name), logger=_log)
        names = [topic.name for topic in topics.ALL]
        asyncio.run(await_topics(admin, settings, names, settings.spark_start_seconds))

        stream_metrics = StreamMetrics(numbers)
        queries: dict[str, Query] = {}
        if only in (None, bars_query.NAME):
            bars = BarsQuery(settings, dict(known.ids), stream_metrics.bars_batch)
            queries[bars_query.NAME] = bars
            bars.check()
        raw = None
        if only in (None, archive.NAME):
            raw = Archive(settings, dict(known.ids), stream_metrics)
        server = serve_metrics(settings, numbers)
        spark = session.start(settings)
        try:
            files = certificate_files(settings)
            renewals = Renewals(files.version if files else None)
            if raw is not None:
                raw.start(spark)
            brokers = settings.kafka_bootstrap_servers
            watch = _Watch(spark, queries, raw, stream_metrics, brokers)
            watch.run(stop, renewals)
        finally:
            if raw is not None:
                raw.stopped.set()
            _stop(spark)
            if server is not None:
                server.close()


def serve_metrics(
    settings: ServiceSettings, numbers: metrics.Metrics
) -> metrics.MetricsServer | None:
    """Serve metrics if the settings contain an address; SettingsError if it is not allowed."""
    if not settings.metrics_listen:
        return None
    listen = Address.parse(settings.metrics_listen)
    return metrics.start(listen, numbers, settings, certificate_files(settings))


class _Watched:
    """A query with its current run and the wait until its restart."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.running: StreamingQuery | None = None
        self.backoff = Backoff(base=query.patience, cap=15.0, healthy_after=30.0)
        self.wait = 0.0


class _Watch:
    """Starts queries that are due, and monitors running ones."""

    def __init__(
        self,
        spark: SparkSession,
        queries: dict[str, Query],
        raw: Archive | None,
        stream_metrics: StreamMetrics,
        brokers: str,
    ) -> None:
        self._spark, self._raw, self._brokers = spark, raw, brokers
        self._watched = {name: _Watched(query) for name, query in queries.items()}
        self._metrics = stream_metrics

    def run(self, stop: threading.Event, renewals: Renewals) -> None:
        """Run until `stop` is set.

        Raises:
            JvmLostError: Spark's JVM died.
            SnapshotError: Checkpoint and snapshots don't belong together.
        """
        while not stop.wait(_TICK_SECONDS):
            try:
                version = renewals.pending()
                if version is not None and self._raw is not None:
                    self._raw.renew()
                for name, watched in self._watched.items():
                    if version is not None:
                        _renew(name, watched)
                    self._step(name, watched)
                if version is not None:
                    renewals.taken(version)
                if self._raw is not None and self._raw.lost is not None:
                    raise JvmLostError(f"Spark's JVM is gone ({self._raw.lost})")
            except (Py4JError, ConnectionError) as error:
                if stop.is_set():
                    return
                raise JvmLostError(f"Spark's JVM is gone ({error})") from error

    def _step(self, name: str, watched: _Watched) -> None:
        """Start a query that is due, or monitor a running one."""
        if watched.running is None:
            watched.wait -= _TICK_SECONDS
            if watched.wait <= 0:
                watched.running = watched.query.start(self._spark)
                _log.info("query %s runs", name)
            return
        self._metrics.follow(name, watched.running)
        if watched.running.isActive:
            if watched.running.lastProgress:
                watched.backoff.healthy()
            return
        error = watched.running.exception()
        message = fold_cause(str(error), self._brokers) if error else "it stopped"
        watched.running = None
        if watched.query.fatal is not None:
            raise watched.query.fatal
        if (lost := re.search(r"^.*SnapshotError: (.*)$", message, re.MULTILINE)) is not None:
            raise SnapshotError(lost[1])
        self._metrics.restarted(name)
        watched.wait = next(watched.backoff)
        _log.warning("query %s failed, restarting in %.1f s: %s", name, watched.wait, message)


def _renew(name: str, watched: _Watched) -> None:
    """Stop a query's run after its batch; it is restarted with the renewed certificate.

    Its Kafka clients are created at its start and read their keystore then.
    """
    if watched.running is not None and watched.running.isActive:
        with watched.query.gate.closed(_BATCH_SECONDS):
            watched.running.stop()
        watched.running, watched.wait = None, 0.0
        _log.info("query %s restarts with the renewed certificate", name)


def _stop(spark: SparkSession) -> None:
    """Stop the queries and the JVM; a batch in progress is run again at the next start."""
    try:
        for query in spark.streams.active:
            query.stop()
        spark.stop()
    except Exception as error:
        _log.warning("Spark did not stop in order: %s", error)


@contextmanager
def _only_one(settings: StreamSettings) -> Generator[None]:
    """Lock the state directories against a second application.

    Raises:
        SettingsError: They are in use, or can't be written.
    """
    for name in ("spark_checkpoint_dir", "spark_snapshot_dir"):
        directory: Path = getattr(settings, name).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}{name.upper()}: can't write in {directory} ({error.strerror}); set it to "
                "a directory that can be written"
            ) from error
    path = settings.spark_checkpoint_dir.absolute() / ".lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"{PREFIX}SPARK_CHECKPOINT_DIR: {path.parent} is in use by another "
                "coinmesh-spark; stop that one, or set another directory"
            ) from error
        yield


def reset(settings: StreamSettings) -> list[Path]:
    """Delete the state of the bars' query, so that it folds the topic from its first record.

    The archive resumes where its manifests end.

    Raises:
        SnapshotError: The topic's partition count has changed since the state was written.
    """
    numbers = metrics.Metrics()
    with _only_one(settings), log_counts.counted(numbers):
        bars_query.continuity(settings).check_reset()
        removed = [
            settings.spark_checkpoint_dir.absolute() / bars_query.NAME,
            settings.spark_snapshot_dir.absolute(),
        ]
        for directory in removed:
            shutil.rmtree(directory, ignore_errors=True)
    return removed
