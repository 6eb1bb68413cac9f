"""Archived sessions as inputs: several objects, several sources, and what is missing."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameBatch, FrameKind
from coinmesh_sources import archive
from coinmesh_sources.archive import CaptureError, read_archive


def batch(connection: str, *sequences: int) -> FrameBatch:
    """A batch whose frames hold their sequence numbers."""
    made = FrameBatch(
        source=connection.partition("/")[0],
        connection=connection,
        receive_time=sequences[0] + 1,
        first_sequence=sequences[0],
    )
    for sequence in sequences:
        made.frames.add(
            kind=FrameKind.FRAME_KIND_MESSAGE, sequence=sequence, payload=b"%d" % sequence
        )
    return made


def write(path: Path, *batches: FrameBatch) -> None:
    values = [framing.header(1) + each.SerializeToString() for each in batches]
    rows = [{"topic": topics.FRAMES.name, "value": value} for value in values]
    pq.write_table(pa.Table.from_pylist(rows), path)


def payloads(path: Path, source: str = "a") -> list[bytes]:
    return [each.payload for each in read_archive(path, source)]


def test_frames_of_other_sources_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", batch("a/s/0", 0), batch("b/s/0", 0, 1, 2), batch("a/s/1", 1))
    assert payloads(tmp_path) == [b"0", b"1"]
    with pytest.raises(CaptureError, match=r"of c$"):
        payloads(tmp_path, "c")


def test_missing_frames_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", batch("a/s/0", 0, 1), batch("a/s/1", 4))
    with pytest.raises(CaptureError, match="session a/s lacks frames 2 to 3"):
        payloads(tmp_path)


def test_sessions_over_several_objects_are_read_in_order_and_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections of one session share the sequence, each in objects of its own."""
    size, objects = 200, 10
    for part in range(objects):
        begin = part * 2 * size
        for connection in (0, 1):
            write(
                tmp_path / f"{part}-{connection}.parquet",
                *(batch(f"a/s/{connection}", begin + 2 * n + connection) for n in range(size)),
            )
    read_batches = archive._batches
    held = 0

    def counted(file: Path) -> Iterator[FrameBatch]:
        nonlocal held
        for each in read_batches(file):
            held += 1
            yield each

    monkeypatch.setattr(archive, "_batches", counted)
    expected = 0
    for given in read_archive(tmp_path, "a"):
        if expected == 0:
            held -= 2 * size * objects  # the first reading only finds where sessions begin
        assert given.payload == b"%d" % expected
        expected += 1
        held -= 1
        assert held <= 4
    assert expected == 2 * size * objects
