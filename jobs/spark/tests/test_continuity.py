"""Checkpoint and snapshots: a batch starts from the state before it, or not at all."""

import json

import pytest

from coinmesh_spark.continuity import Checkpoint, Continuity
from coinmesh_spark.fold import Rules
from coinmesh_spark.snapshots import PartitionState, SnapshotError, Snapshots
from coinmesh_spark.state import Partition


class Pair:
    """A checkpoint as Spark writes it, and the snapshots beside it."""

    def __init__(self, root):
        self.root = root
        self.snapshots = Snapshots(root / "snapshots")
        self.checkpoint = Checkpoint(root / "checkpoint", "trades")
        self.continuity = self.by(Rules())

    def by(self, rules):
        return Continuity(self.checkpoint, self.snapshots, rules)

    def plan(self, batch, ends, identity="a"):
        for name in ("offsets", "commits"):
            (self.checkpoint.directory / name).mkdir(parents=True, exist_ok=True)
        (self.checkpoint.directory / "metadata").write_text(json.dumps({"id": identity}))
        initial = self.checkpoint.directory / "sources" / "0" / "0"
        initial.parent.mkdir(parents=True, exist_ok=True)
        begins = json.dumps({"trades": dict.fromkeys(ends, 3)})
        initial.write_bytes(b"\x00v1\n" + begins.encode())
        lines = ("v1", json.dumps({"batchWatermarkMs": 0}), json.dumps({"trades": ends}))
        (self.checkpoint.directory / "offsets" / str(batch)).write_text("\n".join(lines))

    def commit(self, batch):
        (self.checkpoint.directory / "commits" / str(batch)).write_text("v1\n{}")

    def run(self, batch, ends):
        """A batch from its planning to its commit, with a file for partition 0 alone."""
        self.plan(batch, ends)
        self.continuity.starts(batch)
        file, _ = self.snapshots.save(batch, 0, Partition(newest=batch))
        self.continuity.record(batch, {0: file})
        self.commit(batch)


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def test_a_fresh_start_and_the_batches_after_it(pair):
    pair.continuity.check()
    for batch in range(3):
        pair.run(batch, {"0": 10 * (batch + 1), "1": 0})
        pair.continuity.check()
    starts = pair.continuity.starts(3)
    assert starts[0].next_offset == 30
    assert pair.snapshots.load(starts[0].file).newest == 2
    assert starts[1].file is None


@pytest.mark.parametrize("died", ["planned", "saved", "recorded"])
def test_a_batch_that_is_run_again_starts_from_the_one_before(pair, died):
    pair.run(0, {"0": 10})
    pair.plan(1, {"0": 20})
    if died != "planned":
        file, _ = pair.snapshots.save(1, 0, Partition(newest=99))
        if died == "recorded":
            pair.continuity.record(1, {0: file})
    pair.continuity.check()
    assert pair.checkpoint.next_batch() == 1
    start = pair.continuity.starts(1)[0]
    assert (start.next_offset, pair.snapshots.load(start.file).newest) == (10, 0)


def test_a_first_batch_may_have_died_after_its_manifest(pair):
    pair.plan(0, {"0": 10})
    file, _ = pair.snapshots.save(0, 0, Partition())
    pair.continuity.record(0, {0: file})
    pair.continuity.check()
    assert pair.continuity.starts(0) == {0: PartitionState(3)}


def test_lost_snapshots_are_refused(pair):
    pair.run(0, {"0": 10})
    for path in pair.snapshots.directory.iterdir():
        path.unlink()
    with pytest.raises(SnapshotError, match=r"needs the snapshot of batch 0.*coinmesh-spark reset"):
        pair.continuity.check()


def test_a_lost_checkpoint_is_refused(pair):
    pair.run(0, {"0": 10})
    pair.run(1, {"0": 20})
    fresh = Continuity(Checkpoint(pair.root / "other", "trades"), pair.snapshots, Rules())
    with pytest.raises(SnapshotError, match=r"has run no batch.*coinmesh-spark reset"):
        fresh.check()


def test_another_checkpoint_is_refused(pair):
    pair.run(0, {"0": 10})
    pair.plan(0, {"0": 10}, identity="b")
    with pytest.raises(SnapshotError, match="belongs to checkpoint a"):
        pair.continuity.check()


def test_offsets_that_differ_are_refused(pair):
    pair.run(0, {"0": 10})
    pair.plan(0, {"0": 11})
    with pytest.raises(SnapshotError, match="ended that batch at"):
        pair.continuity.check()


def test_changed_partition_count_is_rejected_without_recommending_reset(pair):
    pair.run(0, {"0": 10, "1": 5})
    pair.plan(1, {"0": 12, "1": 6, "2": 3})
    for refuses in (lambda: pair.continuity.starts(1), pair.continuity.check_reset):
        with pytest.raises(SnapshotError, match=r"has 3 partitions.*made with 2") as exc_info:
            refuses()
        assert "Don't reset" in str(exc_info.value)
        assert "coinmesh-spark reset" not in str(exc_info.value)


def test_reset_is_allowed_while_the_partition_count_is_the_same(pair):
    pair.continuity.check_reset()
    pair.run(0, {"0": 10})
    pair.continuity.check_reset()
    pair.plan(1, {"0": 12})
    pair.continuity.check_reset()


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (Rules(disorder=3_000_000), r"COINMESH_SPARK_DISORDER_SECONDS=2 \(now 3\)"),
        (Rules(idle=500_000), r"COINMESH_SPARK_IDLE_SECONDS=10 \(now 0.5\)"),
        (Rules(horizon=600_000_000), r"COINMESH_SPARK_HORIZON_SECONDS=300 \(now 600\)"),
        (
            Rules(indicator_intervals=frozenset({"1m", "1s"})),
            r"COINMESH_SPARK_INDICATOR_INTERVALS=1s,1m,5m,1h,1d \(now 1s,1m\)",
        ),
    ],
)
def test_changed_rule_is_rejected_with_its_setting_and_remedy(pair, rules, named):
    pair.run(0, {"0": 10})
    pair.by(Rules()).check()
    with pytest.raises(SnapshotError, match=named + r".*Set these.*coinmesh-spark reset"):
        pair.by(rules).check()


def test_state_of_a_version_without_rules_takes_the_present_ones(pair):
    pair.run(0, {"0": 10})
    path = pair.snapshots.directory / f"{0:012d}.json"
    manifest = json.loads(path.read_text())
    del manifest["rules"]
    path.write_text(json.dumps(manifest))
    pair.continuity.check()
    pair.run(1, {"0": 20})
    with pytest.raises(SnapshotError, match="SPARK_IDLE_SECONDS"):
        pair.by(Rules(idle=1)).check()
