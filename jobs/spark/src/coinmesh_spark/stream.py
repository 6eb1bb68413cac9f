"""The application: both queries in one Spark session, watched and restarted."""

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
from pyspark.errors import StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from coinmesh_contracts import topics
from coinmesh_spark import archive_query, bars_query, session
from coinmesh_spark.archive_query import ArchiveQuery
from coinmesh_spark.bars_query import BarsQuery
from coinmesh_spark.gate import Gate
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.snapshots import SnapshotError
from coinmesh_spark.stream_metrics import StreamMetrics
from meshkit import log_counts, metrics
from meshkit.backoff import Backoff
from meshkit.kafka import await_topics, client_config
from meshkit.registry import Registry
from meshkit.rotation import Renewals
from meshkit.settings import PREFIX, Address, SettingsError
from meshkit.tls import certificate_files, require_plaintext_allowed

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.5
#: How long a renewal waits for a batch to end by itself.
_BATCH_SECONDS: Final = 10.0


class JvmLostError(Exception):
    """Spark's JVM is gone; only a new process helps."""


class Query(Protocol):
    """One of the application's queries."""

    fatal: Exception | None
    gate: Gate
    patience: float
    """Longest wait before the first try after a failure, in seconds."""

    def check(self) -> None:
        """Raise if it must not start."""

    def start(self, session: SparkSession) -> StreamingQuery:
        """Start it where its checkpoint stands."""
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

        told = StreamMetrics(numbers)
        queries: dict[str, Query] = {
            bars_query.NAME: BarsQuery(settings, dict(known.ids), told.bars_batch),
            archive_query.NAME: ArchiveQuery(settings, dict(known.ids), told.archive_batch),
        }
        if only:
            queries = {only: queries[only]}
        for query in queries.values():
            query.check()
        server = None
        if settings.metrics_listen:
            listen = Address.parse(settings.metrics_listen)
            if certificate_files(settings) is None:
                require_plaintext_allowed(listen.host, settings, "serve metrics on")
            server = metrics.start(listen, numbers, certificate_files(settings))
        spark = session.start(settings)
        try:
            files = certificate_files(settings)
            renewals = Renewals(files.version if files else None)
            brokers = settings.kafka_bootstrap_servers
            _watch(spark, queries, told, stop, renewals=renewals, brokers=brokers)
        finally:
            _stop(spark)
            if server is not None:
                server.close()


class _Watched:
    """A query with its present run and when to start it again."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.running: StreamingQuery | None = None
        self.backoff = Backoff(base=query.patience, cap=15.0, healthy_after=30.0)
        self.wait = 0.0


def _watch(
    spark: SparkSession,
    queries: dict[str, Query],
    told: StreamMetrics,
    stop: threading.Event,
    *,
    renewals: Renewals,
    brokers: str,
) -> None:
    watched = {name: _Watched(query) for name, query in queries.items()}
    while not stop.wait(_TICK_SECONDS):
        try:
            version = renewals.pending()
            for name, one in watched.items():
                if version is not None:
                    _renew(name, one)
                _step(spark, name, one, told, brokers)
            if version is not None:
                renewals.taken(version)
        except (Py4JError, ConnectionError) as error:
            if stop.is_set():
                return
            raise JvmLostError(f"Spark's JVM is gone ({error})") from error


def _renew(name: str, one: _Watched) -> None:
    """End a query's run, after its batch; it goes on with the certificate of now.

    Its Kafka clients are made when it starts and read their keystore then.
    """
    if one.running is not None and one.running.isActive:
        with one.query.gate.closed(_BATCH_SECONDS):
            one.running.stop()
        one.running, one.wait = None, 0.0
        _log.info("query %s goes on with the renewed certificate", name)


def _step(spark: SparkSession, name: str, one: _Watched, told: StreamMetrics, brokers: str) -> None:
    """Start a query that is due, look after one that runs."""
    if one.running is None:
        one.wait -= _TICK_SECONDS
        if one.wait <= 0:
            one.running = one.query.start(spark)
            _log.info("query %s runs", name)
        return
    told.follow(name, one.running)
    if one.running.isActive:
        if one.running.lastProgress:
            one.backoff.healthy()
        return
    cause = _cause(one.running.exception())
    if cause.startswith("org.apache.kafka."):
        cause = f"Kafka at {brokers}: {cause}"
    one.running = None
    if one.query.fatal is not None:
        raise one.query.fatal
    if (lost := re.search(r"^.*SnapshotError: (.*)$", cause, re.MULTILINE)) is not None:
        raise SnapshotError(lost[1])
    told.restarted(name)
    one.wait = next(one.backoff)
    _log.warning("query %s failed, goes on in %.1f s: %s", name, one.wait, cause)


def _cause(error: StreamingQueryException | None) -> str:
    """The line that names what went wrong, out of layers of Spark's and Python's traces."""
    if error is None:
        return "it stopped"
    text = str(error)
    for pattern in (
        # An exception of ours, raised in a worker or in the driver.
        r"^((?:coinmesh|meshkit)[\w.]*: .*)$",
        r"Job aborted due to stage failure:.*?: ((?:[a-z]+\.)+\w+: .*)$",
        r"^((?:[a-zA-Z_]\w*\.)*\w*(?:Error|Exception): (?!An exception was thrown from).*)$",
    ):
        if found := re.search(pattern, text, re.MULTILINE):
            return found[1][:1000]
    return text[:1000]


def _stop(spark: SparkSession) -> None:
    """End the queries and the JVM; a batch in progress is run again at the next start."""
    try:
        for query in spark.streams.active:
            query.stop()
        spark.stop()
    except Exception as error:
        _log.warning("Spark did not stop in order: %s", error)


@contextmanager
def _only_one(settings: StreamSettings) -> Generator[None]:
    """Hold the state directories against a second application.

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
    """Forget what the bars' query has done, so that it folds the topic from its first record.

    The archive goes on where it stands.

    Raises:
        SnapshotError: The topic's partition count has changed since.
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
