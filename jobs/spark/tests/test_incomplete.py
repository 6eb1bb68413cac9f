"""A batch of the bars' query that didn't read all that it planned has no effect."""

from types import SimpleNamespace

import msgspec
import pyarrow as pa
import pytest

from coinmesh_contracts import topics
from coinmesh_spark import fold_task, reads
from coinmesh_spark.bars_query import BarsQuery
from coinmesh_spark.fold_task import Plan, Report
from coinmesh_spark.gate import Gate
from coinmesh_spark.reads import IncompleteReadError
from coinmesh_spark.snapshots import PartitionState


def batch(first, count):
    return pa.RecordBatch.from_pydict(
        {
            "partition": pa.array([0] * count, pa.int32()),
            "offset": pa.array(range(first, first + count), pa.int64()),
            "timestamp": pa.array([1_723_075_200_000_000] * count, pa.timestamp("us", "UTC")),
            "key": pa.array([b"sim.A"] * count, pa.binary()),
            "value": pa.array([b"no trade"] * count, pa.binary()),
        }
    )


@pytest.mark.parametrize("read", [(5, 2), (6, 2)])
def test_task_that_did_not_read_its_range_writes_nothing(tmp_path, monkeypatch, read):
    sinks = SimpleNamespace(
        visible_offsets=lambda *_: [5, 6, 7], accepts=lambda _: False, ahead=0, tracing=None
    )
    monkeypatch.setattr(fold_task, "_sinks", lambda: sinks)
    fold_task._decoder.cache_clear()
    plan = Plan(
        batch=1,
        checkpoint="c",
        starts={0: PartitionState(5, None)},
        ends={0: 8},
        directory=tmp_path,
        rules=None,
        schema_ids={topics.TRADES.name: 7},
        pids={},
        begun_ns=0,
    )
    with pytest.raises(IncompleteReadError, match="records from 5 to 7"):
        list(fold_task.run(plan, iter([batch(*read)])))
    assert list(tmp_path.iterdir()) == []
    fold_task._decoder.cache_clear()


def report(partition):
    fields = dict.fromkeys(Report.__struct_fields__, 0)
    return Report(**fields | {"partition": partition, "file": "f", "dead": {}, "seconds": {}})


class Frame:
    """Spark's, whose tasks gave back these reports."""

    def __init__(self, *partitions):
        self._partitions = partitions

    def mapInArrow(self, *_):
        return self

    def collect(self):
        return [{"report": msgspec.json.encode(report(number))} for number in self._partitions]


class Continuity:
    """Batch 1 has three records of two partitions each."""

    checkpoint_id = "c"

    def __init__(self):
        self.recorded = []

    def starts(self, _batch):
        return {number: PartitionState(5, None) for number in (0, 1)}

    def ends(self, _batch):
        return {0: 8, 1: 8}

    def record(self, batch, files):
        self.recorded.append((batch, files))


def run_batch(monkeypatch, *partitions):
    """What was recorded of a batch, and its reports that the metrics got."""
    monkeypatch.setattr(reads, "visible_offsets", lambda *_: [5, 6, 7])
    query = BarsQuery.__new__(BarsQuery)
    reported = []
    query.__dict__.update(
        _settings=None,
        _schema_ids={},
        _on_batch=lambda _batch, reports: reported.extend(reports),
        _rules=None,
        _snapshots=None,
        _continuity=Continuity(),
        _pids={},
        fatal=None,
        gate=Gate(),
    )
    try:
        query._run(Frame(*partitions), 1)
    finally:
        assert len(reported) == (len(partitions) if query._continuity.recorded else 0)
    return query._continuity.recorded


def test_batch_whose_partitions_reported_once_is_recorded(monkeypatch):
    assert run_batch(monkeypatch, 1, 0) == [(1, {0: "f", 1: "f"})]


@pytest.mark.parametrize("partitions", [(0,), (), (0, 1, 1)])
def test_batch_whose_reports_are_not_one_per_partition_fails(monkeypatch, partitions):
    with pytest.raises(IncompleteReadError):
        run_batch(monkeypatch, *partitions)
