"""How snapshots and Spark's checkpoint agree, so that a batch starts from the state before it only.

Spark writes a batch's offsets before it runs it, so a batch that is run again has the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from coinmesh_spark.snapshots import FORMAT, Manifest, PartitionState, SnapshotError, Snapshots

WAY_OUT: Final = (
    "Restore the two directories from the same backup, or run `coinmesh-spark reset` to fold the "
    "topic again from its first record (all writes are idempotent)"
)
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class Checkpoint:
    """What Spark's checkpoint directory says about a query that reads one topic."""

    def __init__(self, directory: Path, topic: str) -> None:
        self.directory, self.topic = directory, topic

    @property
    def id(self) -> str | None:
        """The id that Spark gave the checkpoint; None before the first start."""
        try:
            return str(_OBJECT.decode((self.directory / "metadata").read_bytes())["id"])
        except FileNotFoundError:
            return None

    def next_batch(self) -> int:
        """The batch that Spark will run next, be it for the first time or again."""
        planned, done = self._newest("offsets"), self._newest("commits")
        return planned if planned > done else done + 1

    def ends(self, batch: int) -> dict[int, int] | None:
        """The offset after the last one of each partition; None if the batch isn't known."""
        try:
            lines = (self.directory / "offsets" / str(batch)).read_bytes().splitlines()
        except FileNotFoundError:
            return None
        offsets: dict[str, int] = _OBJECT.decode(lines[-1]).get(self.topic, {})
        return {int(partition): offset for partition, offset in offsets.items()}

    def _newest(self, log: str) -> int:
        names = (path.name for path in (self.directory / log).glob("*"))
        return max((int(name) for name in names if name.isdigit()), default=-1)


class Continuity:
    """Gives each batch its start, and records its end."""

    def __init__(self, checkpoint: Checkpoint, snapshots: Snapshots) -> None:
        self._checkpoint, self._snapshots = checkpoint, snapshots

    def check(self) -> None:
        """Whether the query may start.

        Raises:
            SnapshotError: Checkpoint and snapshots don't belong together; the message names both
                and the way out.
        """
        checkpoint, directory = self._checkpoint, self._snapshots.directory
        batch = checkpoint.next_batch()
        if batch > 0:
            self.starts(batch)
            return
        found = self._snapshots.batches()
        # A crash in the first batch may leave its manifest before Spark's commit.
        if found and (found != [0] or checkpoint.id is None):
            raise SnapshotError(
                f"{directory} holds a state up to batch {found[-1]}, but checkpoint "
                f"{checkpoint.directory} has run no batch. {WAY_OUT}"
            )

    def starts(self, batch: int) -> dict[int, PartitionState]:
        """The state that a batch begins with: that after the one before, and no other.

        Raises:
            SnapshotError: There is none that agrees with the checkpoint.
        """
        if batch == 0:
            return {}
        checkpoint, snapshots = self._checkpoint, self._snapshots
        manifest = snapshots.manifest(batch - 1)
        if manifest is None:
            found = snapshots.batches()
            held = f"batches {found[0]} to {found[-1]}" if found else "none"
            raise SnapshotError(
                f"checkpoint {checkpoint.directory} goes on with batch {batch}, which needs the "
                f"snapshot of batch {batch - 1}, but {snapshots.directory} holds {held}. {WAY_OUT}"
            )
        self._agree(manifest)
        now = checkpoint.ends(batch)
        if now is not None and now.keys() != manifest.partitions.keys():
            raise SnapshotError(
                f"{checkpoint.topic} has {len(now)} partitions, but the state in "
                f"{snapshots.directory} was made with {len(manifest.partitions)}: its instruments "
                f"may have moved to other partitions. {WAY_OUT}"
            )
        return manifest.partitions

    def record(self, batch: int, files: Mapping[int, str]) -> None:
        """Make `files`, by partition, the state after a batch; other partitions keep theirs."""
        checkpoint, snapshots = self._checkpoint, self._snapshots
        ends = checkpoint.ends(batch)
        if ends is None:
            raise SnapshotError(f"{checkpoint.directory} has no offsets of batch {batch}")
        before = {number: start.file for number, start in self.starts(batch).items()}
        state = {
            number: PartitionState(end, files.get(number, before.get(number)))
            for number, end in ends.items()
        }
        snapshots.commit(Manifest(FORMAT, checkpoint.id or "", batch, checkpoint.topic, state))

    def _agree(self, manifest: Manifest) -> None:
        """Compare a manifest with the checkpoint's record of the same batch."""
        checkpoint = self._checkpoint
        where = f"snapshot {manifest.batch} in {self._snapshots.directory}"
        if manifest.topic != checkpoint.topic or manifest.checkpoint != checkpoint.id:
            raise SnapshotError(
                f"{where} belongs to checkpoint {manifest.checkpoint} of {manifest.topic}, not to "
                f"{checkpoint.id} in {checkpoint.directory}. {WAY_OUT}"
            )
        ends = checkpoint.ends(manifest.batch)
        ours = {number: part.next_offset for number, part in manifest.partitions.items()}
        if ends is not None and ends != ours:
            raise SnapshotError(
                f"{where} goes to offsets {ours}, but checkpoint {checkpoint.directory} ended "
                f"that batch at {ends}. {WAY_OUT}"
            )
