"""New records are merged with the objects before them, unless these can't be read."""

from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import pyarrow as pa
import pytest
from pyarrow import fs

from coinmesh_archive import objects
from coinmesh_archive.manifest import Incarnation, KeyStatistics, Manifest, Partition
from coinmesh_archive.testing import MemoryStore
from coinmesh_archive.topic_log import TopicLog
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_spark import archive_task, reads
from coinmesh_spark.archive_ledger import Ledger
from coinmesh_spark.archive_store import WorkerStore
from coinmesh_spark.archive_task import Plan, Range, Tail
from coinmesh_spark.reads import IncompleteReadError

TOPIC = topics.FRAMES.name


class Store(WorkerStore):
    """A directory instead of S3; no registry."""

    def __init__(self, directory):
        self.bucket, self.files = (
            "bucket",
            fs.SubTreeFileSystem(str(directory), fs.LocalFileSystem()),
        )
        self._settings = SimpleNamespace(s3_endpoint="", s3_bucket="")
        (directory / "bucket").mkdir()

    def put(self, key, data):
        self.files.create_dir(f"{self.bucket}/{key.rpartition('/')[0]}", recursive=True)
        super().put(key, data)

    def keep_schema(self, schema_id):
        pass


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def batch(first, count):
    return pa.RecordBatch.from_pydict(
        {
            "topic": [TOPIC] * count,
            "partition": pa.array([0] * count, pa.int32()),
            "offset": pa.array(range(first, first + count), pa.int64()),
            "timestamp": pa.array([1_723_075_200_000_000] * count, pa.timestamp("us", "UTC")),
            "timestampType": pa.array([1] * count, pa.int32()),
            "key": pa.array([b"k"] * count, pa.binary()),
            "value": pa.array([b"value"] * count, pa.binary()),
            "headers": pa.array([None] * count, pa.binary()),
        }
    )


def archived(store, monkeypatch, start, end, tail=(), read=None):
    """The report of a task that gets the records `read` of a range."""
    monkeypatch.setattr(archive_task, "worker_store", lambda: store)
    monkeypatch.setattr(reads, "visible_offsets", lambda *_: list(range(start, end)))
    monkeypatch.setattr(archive_task, "_decode", lambda _s, _t, table, _i: (facts(table), []))
    monkeypatch.setattr(archive_task, "_report", lambda *_: {})
    plan = Plan(0, 1 << 20, {}, {(TOPIC, 0): Range(start, end, tail)}, {})
    first, count = read or (start, end - start)
    (result,) = archive_task.run(plan, iter([batch(first, count)]))
    return archive_task.msgspec.json.decode(
        result.column("report")[0].as_py(), type=archive_task.Report
    )


def facts(table):
    return [objects.NO_FACT] * len(table)


def tail_of(item):
    return (Tail(item.key, item.sha256, item.payload),)


def test_small_object_is_merged_with_new_records(store, monkeypatch):
    (first,) = archived(store, monkeypatch, 0, 3).objects
    report = archived(store, monkeypatch, 3, 6, tail_of(first))
    assert report.retired == [first.key]
    assert [(item.first, item.last, item.records) for item in report.objects] == [(0, 5, 6)]


@pytest.mark.parametrize("problem", ["missing", "damaged"])
def test_unreadable_object_is_left_as_it_is(store, monkeypatch, problem):
    (first,) = archived(store, monkeypatch, 0, 3).objects
    if problem == "missing":
        store.files.delete_file(f"bucket/{first.key}")
    else:
        store.put(first.key, b"other")
    report = archived(store, monkeypatch, 3, 6, tail_of(first))
    assert report.retired == []
    assert [(item.first, item.last) for item in report.objects] == [(3, 5)]


@pytest.mark.parametrize("read", [(0, 2), (1, 2)])
def test_task_that_did_not_read_its_range_fails(store, monkeypatch, read):
    with pytest.raises(IncompleteReadError):
        archived(store, monkeypatch, 0, 3, read=read)


class Logs:
    """The topic has never been truncated."""

    def compared(self, log, _manifest):
        return log


def trade(trade_id, time):
    event = Trade(event_id="e", trade_id=trade_id, event_time=time)
    return framing.header(7) + event.SerializeToString()


def slice_of(records, start, end):
    """A partition's trades from offset `start` to before `end`, as Spark reads them."""
    table = batch(start, end - start).to_pydict()
    keys, values = zip(*records[start:end], strict=True)
    own = {"topic": [topics.TRADES.name] * len(keys), "key": keys, "value": values}
    return pa.RecordBatch.from_pydict(table | own, schema=batch(0, 1).schema)


def test_statistics_after_merges_are_those_of_all_records(store, monkeypatch):
    """A task sees the facts of its new records alone; the ledger adds those of merged objects."""
    topic = topics.TRADES.name
    records = [
        # An object that has the extremes of most keys.
        *[(b"a", trade(90, 900)), (b"b", trade(1, 10)), (b"old", trade(5, 50)), (b"a", b"bad")],
        *[(None, trade(3, 300)), (b"c", None)],
        # One that is too small for a merge with it.
        *[(b"a", trade(10, 5)), (b"b", trade(0, 0))],
        # One that is merged with both.
        *[(b"a", trade(50, 500)), (b"b", trade(7, 70)), (b"new", trade(8, 80)), (b"c", b"")],
        *[(None, trade(2, 999)), (b"a", trade(51, 400))],
    ]
    monkeypatch.setattr(archive_task, "worker_store", lambda: store)
    monkeypatch.setattr(reads, "visible_offsets", lambda *_: [])
    monkeypatch.setattr(archive_task, "_report", lambda *_: {})
    archive = MemoryStore()
    incarnation = Incarnation(topic_id="id", partitions={0: Partition(first=0, next=0)})
    archive.put(
        Manifest(topic=topic, date="2024-08-08", incarnations=[incarnation], origin=True), None
    )
    ledger, counts = Ledger(archive, topic), []
    for end in (6, 8, len(records)):
        log = TopicLog(topic, "id", {0: (0, end)})
        planned, _ = ledger.ranges(Logs(), log, datetime(2024, 8, 8, 12, tzinfo=UTC))
        plan = Plan(0, 1 << 20, {}, planned, {})
        start = planned[topic, 0].start
        (result,) = archive_task.run(plan, iter([slice_of(records, start, end)]))
        report = msgspec.json.decode(result.column("report")[0].as_py(), type=archive_task.Report)
        ledger.commit({0: planned[topic, 0]}, [report])
        stored = archive.newest(topic).manifest
        assert stored.faults() == []
        listed = stored.current.partitions[0].objects
        counts.append([item.records for item in listed])
    assert counts == [[6], [6, 2], [14]]
    keys, values = zip(*records, strict=True)
    expected = objects.statistics(
        pa.chunked_array([pa.array(keys, pa.binary())]), objects.facts(topic, values)
    )
    assert listed[0].keys == expected
    assert listed[0].keys["a"] == KeyStatistics(5, (5, 900), (10, 90))
    assert listed[0].events == (5, 999)
