"""Snapshots: whole or not at all, the last few kept, damage told with the way out."""

import pytest

from coinmesh_spark.snapshots import (
    FORMAT,
    KEPT,
    Manifest,
    PartitionState,
    SnapshotError,
    Snapshots,
)
from coinmesh_spark.state import Partition


def commit(snapshots, batch, partitions):
    snapshots.commit(Manifest(FORMAT, "checkpoint", batch, "topic", partitions))


def test_a_partition_without_records_keeps_its_file(tmp_path):
    snapshots = Snapshots(tmp_path)
    quiet, _ = snapshots.save(0, 1, Partition(newest=5))
    for batch in range(KEPT + 4):
        busy, _ = snapshots.save(batch, 0, Partition(newest=batch))
        commit(snapshots, batch, {0: PartitionState(batch, busy), 1: PartitionState(1, quiet)})
    assert snapshots.batches() == list(range(4, KEPT + 4))
    assert snapshots.load(quiet).newest == 5
    assert len(list(tmp_path.glob("*.state"))) == KEPT + 1


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    snapshots = Snapshots(tmp_path)
    (tmp_path / ".000000000000-3.state.x1").write_bytes(b"half")
    name, _ = snapshots.save(0, 0, Partition())
    commit(snapshots, 0, {0: PartitionState(1, name)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "000000000000.json"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_told_with_the_way_out(tmp_path, damage):
    snapshots = Snapshots(tmp_path)
    state = Partition()
    state.open("sim.A").newest = 1
    name, _ = snapshots.save(0, 0, state)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-3])
    else:
        path.unlink()
    with pytest.raises(SnapshotError, match="coinmesh-spark reset"):
        snapshots.load(name)


def test_another_format_is_refused(tmp_path):
    snapshots = Snapshots(tmp_path)
    snapshots.commit(Manifest(FORMAT, "checkpoint", 0, "topic", {}))
    path = tmp_path / "000000000000.json"
    path.write_text(path.read_text().replace(f'"format":{FORMAT}', '"format":99'))
    with pytest.raises(SnapshotError, match="format 99"):
        snapshots.manifest(0)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SnapshotError, match="COINMESH_SPARK_SNAPSHOT_DIR"):
        Snapshots(blocked).save(0, 0, Partition())
