"""Snapshots: the fold's state of each partition after each batch; batch N starts from N - 1.

A directory has one file per partition and batch that had records for it, and one manifest per
batch, which lists the files of the state after it. A task writes its file before its batch commits;
the driver writes the manifest once all tasks are finished. A batch that is run again finds the
previous manifest and writes the same files again.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec

from coinmesh_spark.fold import Rules
from coinmesh_spark.state import Entry, Partition
from meshkit.files import write_atomically

FORMAT: Final = 1
"""Incremented if the state's layout or the fold's meaning changes: older snapshots are rejected."""
KEPT: Final = 5
"""Number of batches whose snapshots are retained."""


class SnapshotError(Exception):
    """The snapshots can't be used; the message contains the problem and the remedy."""


class _Header(msgspec.Struct):
    format: int
    newest: int
    instruments: list[tuple[str, int, int]]
    crc: int


class PartitionState(msgspec.Struct):
    """Position of a partition: its next offset, and its state's file (None: no records yet)."""

    next_offset: int
    file: str | None = None


class Manifest(msgspec.Struct):
    """The state after a batch.

    Attributes:
        format: The layout.
        checkpoint: Id of the checkpoint that the batch belongs to.
        batch: Its number.
        topic: The topic that is folded.
        partitions: Its partitions.
        rules: Parameters of the fold; older manifests don't have it.
    """

    format: int
    checkpoint: str
    batch: int
    topic: str
    partitions: dict[int, PartitionState]
    rules: Rules | None = None


_OWN: Final = (".state", ".json")
_encoder = msgspec.json.Encoder()


def encode_partition(state: Partition) -> bytes:
    """Encode a line of JSON about the instruments, then their states one after the other."""
    instruments: list[tuple[str, int, int]] = []
    blobs: list[bytes] = []
    for name, entry in state.entries():
        instruments.append((name, len(entry.data), entry.next_close))
        blobs.append(entry.data)
    body = b"".join(blobs)
    header = _Header(FORMAT, state.newest, instruments, zlib.crc32(body))
    return _encoder.encode(header) + b"\n" + body


def decode_partition(data: bytes) -> Partition:
    """Decode the result of `encode_partition`.

    Raises:
        SnapshotError: The data is damaged or has another format.
    """
    line, _, body = data.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=_Header)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"its header is damaged ({error})") from error
    if header.format != FORMAT:
        raise SnapshotError(f"its format is {header.format}, this version reads {FORMAT}")
    if zlib.crc32(body) != header.crc:
        raise SnapshotError("its checksum is wrong")
    entries: dict[str, Entry] = {}
    at = 0
    for name, size, next_close in header.instruments:
        entries[name] = Entry(body[at : at + size], next_close)
        at += size
    return Partition(header.newest, entries)


class Snapshots:
    """The snapshot directory, on a file system shared by driver and workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, file: str | None) -> Partition:
        """Return a partition's state; a new one for None.

        Raises:
            SnapshotError: The file is missing or damaged.
        """
        if file is None:
            return Partition()
        path = self.directory / file
        try:
            return decode_partition(path.read_bytes())
        except (OSError, SnapshotError) as error:
            raise SnapshotError(f"can't use snapshot {path}: {error}; {_remedy(self)}") from error

    def save(self, batch: int, partition: int, state: Partition) -> tuple[str, int]:
        """Write a partition's state after a batch; return the file's name and size."""
        name = f"{batch:012d}-{partition}.state"
        data = encode_partition(state)
        self._write(name, data)
        return name, len(data)

    def manifest(self, batch: int) -> Manifest | None:
        """Return the manifest of a batch, None if there is none.

        Raises:
            SnapshotError: It is damaged or has another format.
        """
        path = self.directory / _manifest_name(batch)
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise SnapshotError(f"can't use snapshot {path}: {error}; {_remedy(self)}") from error
        if manifest.format != FORMAT:
            raise SnapshotError(
                f"snapshot {path} has format {manifest.format}, this version reads {FORMAT}; "
                f"{_remedy(self)}"
            )
        return manifest

    def commit(self, manifest: Manifest) -> None:
        """Write a batch's manifest, then delete files that only expired batches need."""
        self._write(_manifest_name(manifest.batch), _encoder.encode(manifest))
        kept = [
            found
            for batch in self.batches()
            if batch > manifest.batch - KEPT and (found := self.manifest(batch)) is not None
        ]
        needed = {part.file for one in kept for part in one.partitions.values()}
        needed |= {_manifest_name(one.batch) for one in kept}
        for path in self.directory.iterdir():
            # No task is writing now: a hidden file was left by a killed task.
            if path.name not in needed and (path.suffix in _OWN or path.name.startswith(".")):
                path.unlink(missing_ok=True)

    def batches(self) -> list[int]:
        """Return the numbers of the batches that have a manifest, in order."""
        return sorted(int(path.stem) for path in self.directory.glob("*.json"))

    def _write(self, name: str, data: bytes) -> None:
        """Write a file atomically and durably."""
        try:
            write_atomically(self.directory / name, data)
        except OSError as error:
            raise SnapshotError(
                f"can't write {self.directory / name}: {error.strerror}; free space there or set "
                "COINMESH_SPARK_SNAPSHOT_DIR to a directory that can be written"
            ) from error


def _manifest_name(batch: int) -> str:
    return f"{batch:012d}.json"


def _remedy(snapshots: Snapshots) -> str:
    return (
        f"restore {snapshots.directory}, or run `coinmesh-spark reset` to fold the topic again "
        "from its first record"
    )
