"""The archive: one thread per topic group, each with its own batches, offsets and failures.

A batch is a Spark job over ranges of offsets that begin where the manifests end, so it needs no
checkpoint. An idle group costs three requests to Kafka per trigger.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
from confluent_kafka.admin import AdminClient
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import SparkSession

from coinmesh_archive.manifest import ManifestError
from coinmesh_archive.store import ArchiveStore
from coinmesh_archive.topic_log import LostRecords, TopicLog, TopicLogs
from coinmesh_contracts import topics
from coinmesh_spark import archive_task, failpoints, reads
from coinmesh_spark.archive_ledger import Ledger, NotIndexed
from coinmesh_spark.archive_task import Range, Report
from coinmesh_spark.causes import cause
from coinmesh_spark.session import ARCHIVE_POOL, jvm_pid, kafka_options
from coinmesh_spark.settings import StreamSettings
from coinmesh_spark.stream_metrics import StreamMetrics
from meshkit.backoff import Backoff
from meshkit.errors import FailedPrecondition
from meshkit.kafka import client_config

_log = logging.getLogger(__name__)

NAME: Final = "archive"
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "market": ("market.",),
    "ingest": ("ingest.",),
    "chain-social": ("chain.", "social."),
    "audit-alerts": ("audit.", "alerts."),
}
"""Topic groups by topic prefix; a group that fails or is behind does not stop the others."""
_ARROW_RECORDS: Final = "500"
"""Records in an Arrow batch: Spark measures a batch after each record, and each time traverses the
lengths of all its headers."""
_GROUP_ID: Final = "spark-kafka-source"
_COLUMNS: Final = (
    *("topic", "partition", "offset", "timestamp", "timestampType", "key", "value", "headers"),
)

Ranges = dict[tuple[str, int], Range]


class Archive:
    """All groups and their shared resources."""

    def __init__(
        self, settings: StreamSettings, schemas: dict[str, int], metrics: StreamMetrics
    ) -> None:
        self.settings, self.schemas, self.metrics = settings, schemas, metrics
        self.pids = {"driver": os.getpid()}
        self.stopped = threading.Event()
        self.lost: Exception | None = None
        self.generation = 0
        self.store = ArchiveStore(settings)
        self.logs = self._connect()

    def _connect(self) -> TopicLogs:
        config = client_config(self.settings, f"{self.settings.service_name}-archive")
        return TopicLogs(AdminClient(config, logger=_log))

    def start(self, session: SparkSession) -> None:
        """Start each group's thread."""
        self.pids["jvm"] = jvm_pid(session)
        # The other half of the slots is always available to the bars, even if the store or the
        # registry blocks.
        slots = max(1, session.sparkContext.defaultParallelism // 2)
        self.slots = threading.BoundedSemaphore(slots)
        for name in GROUPS:
            group = ArchiveGroup(self, name, session.newSession())
            threading.Thread(target=group.run, name=f"archive-{name}", daemon=True).start()

    def renew(self) -> None:
        """Use the renewed certificate from the next batch on: clients read it at creation."""
        self.logs = self._connect()
        self.generation += 1
        _log.info("the archive uses the renewed certificate")


class ArchiveGroup:
    """The batches of one topic group."""

    def __init__(self, archive: Archive, name: str, session: SparkSession) -> None:
        self._archive, self._session = archive, session
        self.name = f"{NAME}-{name}"
        names = [t.name for t in topics.ARCHIVED if t.name.startswith(GROUPS[name])]
        self._ledgers = {topic: Ledger(archive.store, topic) for topic in names}
        self._ids: dict[str, str | None] = {}
        self._batch = 0
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _ARROW_RECORDS)

    def run(self) -> None:
        """Run batches until the archive is stopped."""
        archive = self._archive
        self._session.sparkContext.setLocalProperty("spark.scheduler.pool", ARCHIVE_POOL)
        # It writes once a minute, and each attempt takes CPU that the bars need.
        backoff = Backoff(base=5.0, cap=15.0, healthy_after=30.0)
        wait = 0.0
        while not archive.stopped.wait(wait):
            began = time.time()
            try:
                behind = self.archive_once()
            except Exception as error:
                if archive.stopped.is_set():
                    return
                if _is_jvm_loss(error):
                    archive.lost = error
                    return
                for ledger in self._ledgers.values():
                    ledger.forget()
                wait = next(backoff)
                archive.metrics.archive_failed(self.name)
                message = cause(str(error), archive.settings.kafka_bootstrap_servers)
                _log.warning("%s failed, retrying in %.1f s: %s", self.name, wait, message)
                continue
            backoff.healthy()
            archive.metrics.archive_pass(self.name, time.time() - began)
            trigger = archive.settings.spark_archive_trigger
            wait = 0.0 if behind else max(0.0, began + trigger - time.time())

    def archive_once(self) -> bool:
        """Archive at most a batch of records; return whether there are more to archive now."""
        archive, now = self._archive, datetime.now(UTC)
        logs = archive.logs.read(self._ledgers)
        found: Ranges = {}
        over: list[str] = []
        for topic, ledger in self._ledgers.items():
            try:
                if topic not in logs:
                    raise LostRecords(topic, "Kafka has no such topic")
                ranges, ends = ledger.ranges(archive.logs, logs[topic], now)
            except (LostRecords, NotIndexed, ManifestError) as error:
                archive.metrics.archive_stopped(topic, stopped=True)
                self._note_log(topic, None)
                _log.error("%s", error)
                continue
            archive.metrics.archive_stopped(topic, stopped=False)
            self._note_log(topic, logs[topic].id)
            found |= ranges
            if ends:
                over.append(topic)
        self._show_lag(logs)
        planned = _limited(found, archive.settings.spark_archive_max_offsets)
        if planned:
            with archive.slots:
                reports = self._read(planned)
            self._check(planned, reports, logs)
            self._commit(planned, reports)
        self._show_lag(logs)
        for topic in over:
            if all(planned[key].end == part.end for key, part in found.items() if key[0] == topic):
                self._ledgers[topic].roll()
        return bool(over) or any(planned[key].end < part.end for key, part in found.items())

    def _note_log(self, topic: str, topic_id: str | None) -> None:
        """Use new consumers after a change: pooled ones hold prefetched records of the old log."""
        if self._ids.setdefault(topic, topic_id) != topic_id:
            self._ids[topic] = topic_id
            self._archive.generation += 1

    def _read(self, planned: Ranges) -> list[Report]:
        """Run the Spark job of a batch."""
        archive = self._archive
        plan = archive_task.Plan(
            batch=self._batch,
            max_bytes=archive.settings.spark_archive_max_bytes,
            schemas=archive.schemas,
            ranges=planned,
            pids=archive.pids,
        )
        self._batch += 1
        partitions: dict[str, list[int]] = {}
        starts: dict[str, dict[int, int]] = {}
        ends: dict[str, dict[int, int]] = {}
        for (topic, number), part in planned.items():
            partitions.setdefault(topic, []).append(number)
            starts.setdefault(topic, {})[number] = part.start
            ends.setdefault(topic, {})[number] = part.end
        rows = (
            self._session.read.format("kafka")
            .options(**kafka_options(archive.settings))
            # With this group id executors reuse the consumers of the previous batch.
            .option("kafka.group.id", f"{_GROUP_ID}-{self.name}-{archive.generation}")
            .option("assign", json.dumps(partitions))
            .option("startingOffsets", json.dumps(starts))
            .option("endingOffsets", json.dumps(ends))
            .option("includeHeaders", "true")
            .load()
            .select(*_COLUMNS)
            .coalesce(1)
            .mapInArrow(archive_task.function(plan), archive_task.RESULT)
            .collect()
        )
        return [msgspec.json.decode(bytes(row["report"]), type=Report) for row in rows]

    def _check(self, planned: Ranges, reports: list[Report], logs: dict[str, TopicLog]) -> None:
        """Check that each range was read completely, from the planned topic.

        Raises:
            IncompleteReadError: A range was not read completely.
            FailedPrecondition: The topic was deleted and recreated.
        """
        failpoints.reach("collected", self._batch, self._archive.pids)
        for topic in {topic for topic, _ in planned}:
            ranges = _of_topic(planned, topic)
            reads.check_reports(
                [report.partition for report in reports if report.topic == topic],
                {number: part.start for number, part in ranges.items()},
                {number: part.end for number, part in ranges.items()},
                partial(reads.visible_offsets, self._archive.settings, topic),
            )
        ids = self._archive.logs.ids({topic for topic, _ in planned})
        if changed := [topic for topic, topic_id in ids.items() if topic_id != logs[topic].id]:
            # Consumers may hold records of the deleted topic.
            self._archive.generation += 1
            raise FailedPrecondition(
                "TOPIC_RECREATED", f"{changed[0]} was created again while it was read"
            )

    def _show_lag(self, logs: dict[str, TopicLog]) -> None:
        for topic, log in logs.items():
            for number, (_, end) in log.bounds.items():
                position = self._ledgers[topic].position(number)
                if position is not None:
                    self._archive.metrics.archive_lag(self.name, topic, number, end - position)

    def _commit(self, planned: Ranges, reports: list[Report]) -> None:
        archive = self._archive
        for topic in dict.fromkeys(topic for topic, _ in planned):
            own = [report for report in reports if report.topic == topic]
            ledger = self._ledgers[topic]
            retired = ledger.commit(_of_topic(planned, topic), own)
            failpoints.reach("listed", self._batch, archive.pids)
            ledger.retire(retired)
            failpoints.reach("retired", self._batch, archive.pids)
            archive.metrics.archive_batch(self.name, own)


def _limited(found: Ranges, limit: int) -> Ranges:
    """Shorten each range in proportion, to about `limit` records in total."""
    total = sum(part.end - part.start for part in found.values())
    if total <= limit:
        return found
    return {
        key: part._replace(end=part.start + max(1, (part.end - part.start) * limit // total))
        for key, part in found.items()
    }


def _of_topic(ranges: Ranges, topic: str) -> dict[int, Range]:
    return {number: part for (name, number), part in ranges.items() if name == topic}


def _is_jvm_loss(error: Exception) -> bool:
    if isinstance(error, Py4JJavaError):
        return False
    return isinstance(error, (Py4JError, ConnectionError))
