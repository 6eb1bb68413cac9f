"""Groups of the archive with a fake of Kafka and of Spark: what stops one topic or group, alone."""

import threading
from types import SimpleNamespace

import pytest

from coinmesh_archive.manifest import KeyStatistics, RawObject
from coinmesh_archive.store import manifest_key
from coinmesh_archive.testing import MemoryStore
from coinmesh_archive.topic_log import TopicLog
from coinmesh_contracts import topics
from coinmesh_spark import reads
from coinmesh_spark.archive import GROUPS, ArchiveGroup
from coinmesh_spark.archive_task import Report
from coinmesh_spark.reads import IncompleteReadError

TRADES, QUOTES = topics.TRADES.name, topics.QUOTES.name


class Logs:
    """Topics of one partition; each has as many records as `ends` says."""

    def __init__(self):
        self.ends = {}

    def read(self, names):
        return {name: TopicLog(name, "id", {0: (0, self.ends.get(name, 0))}) for name in names}

    def compared(self, log, _manifest):
        return log

    def ids(self, names):
        return dict.fromkeys(names, "id")

    def offsets_at(self, log, _micros):
        return {number: end for number, (_, end) in log.bounds.items()}


class Metrics:
    def __init__(self):
        self.stopped, self.failed, self.passes = {}, [], []
        self.passed = threading.Condition()

    def archive_stopped(self, topic, *, stopped):
        self.stopped[topic] = stopped

    def archive_failed(self, group):
        self.failed.append(group)

    def archive_pass(self, group, _seconds):
        with self.passed:
            self.passes.append(group)
            self.passed.notify_all()

    def archive_lag(self, *_):
        pass

    def archive_batch(self, *_):
        pass


class Session:
    """Spark, as far as a group uses it beside its jobs."""

    def __init__(self):
        self.conf = self.sparkContext = self

    def set(self, *_):
        pass

    def setLocalProperty(self, *_):
        pass


class Group(ArchiveGroup):
    """A group whose jobs read everything; `before_read` may fail, wait or change the reports."""

    before_read = staticmethod(lambda reports: reports)

    def _read(self, planned):
        return self.before_read([report(*key, part) for key, part in planned.items()])


def report(topic, number, part):
    item = RawObject(
        key=f"raw/{topic}/{number}-{part.start}",
        first=part.start,
        last=part.end - 1,
        records=part.end - part.start,
        size=1,
        payload=1,
        sha256="",
        appended=(0, 0),
        events=None,
        keys={"": KeyStatistics(part.end - part.start)},
    )
    return Report(topic=topic, partition=number, objects=[item])


@pytest.fixture
def archive():
    settings = SimpleNamespace(
        spark_archive_max_offsets=1000, spark_archive_trigger=0.01, kafka_bootstrap_servers="k:1"
    )
    running = SimpleNamespace(
        settings=settings,
        metrics=Metrics(),
        store=MemoryStore(),
        logs=Logs(),
        slots=threading.BoundedSemaphore(2),
        stopped=threading.Event(),
        generation=0,
        pids={},
        lost=None,
    )
    yield running
    running.stopped.set()


def position(archive, topic):
    """The next offset of a topic that isn't archived."""
    return archive.store.newest(topic).manifest.current.partitions[0].next


def test_damaged_manifest_stops_its_topic_alone(archive):
    archive.logs.ends = {TRADES: 5, QUOTES: 7}
    Group(archive, "market", Session()).archive_once()
    key = manifest_key(QUOTES, archive.store.dates(QUOTES)[-1])
    whole = archive.store.s3.objects[key]
    archive.store.s3.objects[key] = whole[:-9]
    archive.logs.ends = {TRADES: 15, QUOTES: 17}
    group = Group(archive, "market", Session())
    group.archive_once()
    assert position(archive, TRADES) == 15
    assert archive.metrics.stopped == {
        topic.name: topic.name == QUOTES
        for topic in topics.ARCHIVED
        if topic.name.startswith(GROUPS["market"])
    }
    archive.store.s3.objects[key] = whole
    group.archive_once()
    assert position(archive, QUOTES) == 17
    assert archive.metrics.stopped[QUOTES] is False


@pytest.mark.parametrize("kind", ["fails", "is slow"])
def test_group_that_fails_or_is_slow_leaves_the_others_running(archive, kind):
    blocked, release = threading.Event(), threading.Event()

    def disturb(_reports):
        blocked.set()
        if kind == "is slow":
            assert release.wait(60)
        raise RuntimeError("Kafka is slow")

    names = {name: Group(archive, name, Session()) for name in ("market", "ingest")}
    names["market"].before_read = disturb
    frames = topics.FRAMES.name
    archive.logs.ends = {TRADES: 5, frames: 5}
    threads = [threading.Thread(target=group.run, daemon=True) for group in names.values()]
    for thread in threads:
        thread.start()
    assert blocked.wait(60)
    for end in (6, 7, 8):
        archive.logs.ends = {TRADES: 5, frames: end}
        with archive.metrics.passed:
            assert archive.metrics.passed.wait_for(lambda: archived(archive, frames) == end, 60)  # noqa: B023
    assert set(archive.metrics.passes) == {"archive-ingest"}
    release.set()
    archive.stopped.set()
    for thread in threads:
        thread.join(60)
    assert archived(archive, TRADES) is None


def archived(archive, topic):
    return position(archive, topic) if archive.store.dates(topic) else None


@pytest.mark.parametrize("problem", ["lost", "twice"])
def test_batch_whose_reports_are_not_one_per_partition_is_not_listed(archive, problem, monkeypatch):
    monkeypatch.setattr(reads, "visible_offsets", lambda *_: [0, 1, 2, 3, 4])
    group = Group(archive, "market", Session())
    group.before_read = lambda reports: [] if problem == "lost" else reports * 2
    archive.logs.ends = {TRADES: 5}
    with pytest.raises(IncompleteReadError):
        group.archive_once()
    assert archived(archive, TRADES) is None
