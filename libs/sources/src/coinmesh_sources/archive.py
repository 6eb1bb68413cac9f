"""Read archived sessions as engine inputs from the Parquet objects of `ingest.frames.v1`.

The inputs of a session are spread over connections and therefore over partitions and objects.
Objects are merged by the sequence numbers of their batches, so memory holds only the frames by
which one object is ahead of another, not a whole session.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.message import DecodeError

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import Frame, FrameBatch
from coinmesh_sources.inputs import Input

_PARQUET: Final = b"PAR1"
_ROWS: Final = 64


class CaptureError(Exception):
    """A capture can't be read; the message names the file, the position and the problem."""


@dataclass(slots=True)
class _Session:
    """The batches of a session: its first receive time and the first sequence in each file."""

    receive_ns: int
    files: dict[Path, int] = field(default_factory=dict[Path, int])


def is_archive(path: Path) -> bool:
    """Return whether a path holds archived raw objects.

    Raises:
        CaptureError: The file can't be read.
    """
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == _PARQUET
    except OSError as error:
        raise CaptureError(f"can't read the capture {path}: {error.strerror}") from error


def read_archive(path: Path, source: str) -> Iterator[Input]:
    """Yield the inputs of a source's archived sessions, session by session, in order.

    Args:
        path: An object, or a directory of objects.
        source: The source; frames of other sources in the same objects are skipped.

    Raises:
        CaptureError: The files are not archived frames, or frames of a session are missing.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise CaptureError(f"{path}: contains no *.parquet files")
    sessions: dict[str, _Session] = {}
    for file in files:
        for batch in _batches(file):
            if batch.source != source:
                continue
            session = sessions.setdefault(_name(batch), _Session(batch.receive_time))
            session.receive_ns = min(session.receive_ns, batch.receive_time)
            first = session.files.get(file, batch.first_sequence)
            session.files[file] = min(first, batch.first_sequence)
    if not sessions:
        raise CaptureError(f"{path}: contains no {topics.FRAMES.name} of {source}")
    for name in sorted(sessions, key=lambda name: sessions[name].receive_ns):
        yield from _inputs(path, name, sessions[name])


def _inputs(path: Path, name: str, session: _Session) -> Iterator[Input]:
    pending: dict[int, tuple[str, Frame]] = {}
    expected = 0
    for batch in _merged(name, session):
        for frame in batch.frames:
            if frame.sequence >= expected:
                pending[frame.sequence] = batch.connection, frame
        while (next_frame := pending.pop(expected, None)) is not None:
            yield _input(*next_frame)
            expected += 1
    if pending:
        raise CaptureError(
            f"{path}: session {name} lacks frames {expected} to {min(pending) - 1}: "
            "provide the whole archive of the session, from its start"
        )


def _merged(name: str, session: _Session) -> Iterator[FrameBatch]:
    """Yield a session's batches, always from the file with the lowest first sequence."""
    opened: dict[Path, Iterator[FrameBatch]] = {}
    # Files are opened lazily, when their first batch is due.
    heap: list[tuple[int, Path, FrameBatch | None]] = [
        (first, file, None) for file, first in session.files.items()
    ]
    heapq.heapify(heap)
    while heap:
        _, file, batch = heapq.heappop(heap)
        if batch is not None:
            yield batch
        else:
            opened[file] = (each for each in _batches(file) if _name(each) == name)
        following = next(opened[file], None)
        if following is not None:
            heapq.heappush(heap, (following.first_sequence, file, following))
        else:
            del opened[file]


def _name(batch: FrameBatch) -> str:
    return batch.connection.rpartition("/")[0]


def _input(connection: str, frame: Frame) -> Input:
    return Input(
        frame.kind, connection, frame.receive_time, frame.payload, frame.context, frame.status
    )


def _batches(file: Path) -> Iterator[FrameBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = cast(Any, pq.ParquetFile(file))
        names = set(table.schema_arrow.names)
        if "value" not in names:
            raise CaptureError(f"{file}: has no column `value`: not archived raw objects")
        columns = ["value", *({"topic"} & names)]
        for part in table.iter_batches(batch_size=_ROWS, columns=columns):
            rows = part.to_pydict()
            for index, value in enumerate(rows["value"]):
                if "topic" not in rows or rows["topic"][index] == topics.FRAMES.name:
                    yield FrameBatch.FromString(framing.split(value)[1])
    except (pa.ArrowException, OSError) as error:
        raise CaptureError(f"can't read {file}: {error}") from error
    except (framing.FramingError, DecodeError) as error:
        raise CaptureError(f"{file}: a record is not a frame batch: {error}") from error
