"""New records are merged with the objects before them, unless these can't be read."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import fs

from coinmesh_archive import objects
from coinmesh_contracts import topics
from coinmesh_spark import archive_task, reads
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
