"""Agreement of snapshots and Spark's checkpoint: a batch starts only from the state before it.

Spark writes a batch's offsets before it runs the batch, so a batch that is run again has the same
records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark.fold import Rules
from coinmesh_spark.snapshots import FORMAT, Manifest, PartitionState, SnapshotError, Snapshots
from coinmesh_spark.trades import MICROS
from meshkit.settings import PREFIX

REMEDY: Final = (
    "Restore the two directories from the same backup, or run `coinmesh-spark reset` to fold the "
    "topic again from its first record (all writes are idempotent)"
)
REPARTITIONED: Final = (
    "Don't reset: a new fold would split the history of an instrument that has moved over two "
    "partitions, and the bar with more trades would win. The bars stay as they are and the archive "
    "continues alone (coinmesh-spark archive); see jobs/spark/README.md, 'When it refuses to start'"
)
_RULES: Final[tuple[tuple[str, Callable[[Rules], str]], ...]] = (
    ("SPARK_DISORDER_SECONDS", lambda rules: f"{rules.disorder / MICROS:g}"),
    ("SPARK_IDLE_SECONDS", lambda rules: f"{rules.idle / MICROS:g}"),
    ("SPARK_HORIZON_SECONDS", lambda rules: f"{rules.horizon / MICROS:g}"),
    (
        "SPARK_INDICATOR_INTERVALS",
        lambda rules: ",".join(name for name in INTERVALS if name in rules.indicator_intervals),
    ),
)
"""Each rule's setting, and its format there."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class Checkpoint:
    """Reads Spark's checkpoint directory of a query with one topic."""

    def __init__(self, directory: Path, topic: str) -> None:
        self.directory, self.topic = directory, topic

    @property
    def id(self) -> str | None:
        """Return the id that Spark assigned to the checkpoint; None before the first start."""
        try:
            return str(_OBJECT.decode((self.directory / "metadata").read_bytes())["id"])
        except FileNotFoundError:
            return None

    def next_batch(self) -> int:
        """Return the batch that Spark will run next, for the first time or again."""
        planned, done = self._newest("offsets"), self._newest("commits")
        return planned if planned > done else done + 1

    def ends(self, batch: int) -> dict[int, int] | None:
        """Return the offset after each partition's last record; None if the batch is unknown."""
        try:
            lines = (self.directory / "offsets" / str(batch)).read_bytes().splitlines()
        except FileNotFoundError:
            return None
        offsets: dict[str, int] = _OBJECT.decode(lines[-1]).get(self.topic, {})
        return {int(partition): offset for partition, offset in offsets.items()}

    def initial(self) -> dict[int, int]:
        """Return the offset from which the first batch reads each partition.

        Raises:
            SnapshotError: Spark has recorded none.
        """
        path = self.directory / "sources" / "0" / "0"
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError as error:
            raise SnapshotError(f"{path} is missing. {REMEDY}") from error
        offsets: dict[str, int] = _OBJECT.decode(lines[-1]).get(self.topic, {})
        return {int(partition): offset for partition, offset in offsets.items()}

    def _newest(self, log: str) -> int:
        names = (path.name for path in (self.directory / log).glob("*"))
        return max((int(name) for name in names if name.isdigit()), default=-1)


class Continuity:
    """Provides each batch's start, and records its end."""

    def __init__(self, checkpoint: Checkpoint, snapshots: Snapshots, rules: Rules) -> None:
        self._checkpoint, self._snapshots, self._rules = checkpoint, snapshots, rules

    @property
    def checkpoint_id(self) -> str:
        """Return the id that Spark assigned to the checkpoint; empty before the first start."""
        return self._checkpoint.id or ""

    def check(self) -> None:
        """Check that the query may start.

        Raises:
            SnapshotError: Checkpoint and snapshots don't belong together; the message names both
                and the remedy.
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
                f"{checkpoint.directory} has run no batch. {REMEDY}"
            )

    def starts(self, batch: int) -> dict[int, PartitionState]:
        """Return the state before a batch: exactly that after the previous batch.

        Raises:
            SnapshotError: There is none that agrees with the checkpoint.
        """
        checkpoint, snapshots = self._checkpoint, self._snapshots
        if batch == 0:
            return {number: PartitionState(at) for number, at in checkpoint.initial().items()}
        manifest = snapshots.manifest(batch - 1)
        if manifest is None:
            found = snapshots.batches()
            held = f"batches {found[0]} to {found[-1]}" if found else "none"
            raise SnapshotError(
                f"checkpoint {checkpoint.directory} goes on with batch {batch}, which needs the "
                f"snapshot of batch {batch - 1}, but {snapshots.directory} holds {held}. {REMEDY}"
            )
        self._agree(manifest)
        self._check_partitions(manifest, batch)
        self._check_rules(manifest)
        return manifest.partitions

    def ends(self, batch: int) -> dict[int, int]:
        """Return the offset after each partition's last record of a batch that Spark has planned.

        Raises:
            SnapshotError: The checkpoint doesn't have it.
        """
        ends = self._checkpoint.ends(batch)
        if ends is None:
            raise SnapshotError(f"{self._checkpoint.directory} has no offsets of batch {batch}")
        return ends

    def check_reset(self) -> None:
        """Check that the topic may be folded again from its first record.

        Raises:
            SnapshotError: Its partition count has changed since the state was written.
        """
        batch = self._checkpoint.next_batch()
        manifest = self._snapshots.manifest(batch - 1)
        if manifest is not None:
            self._check_partitions(manifest, batch)

    def record(self, batch: int, files: Mapping[int, str]) -> None:
        """Record `files` by partition as the state after a batch; other partitions keep theirs."""
        checkpoint, snapshots = self._checkpoint, self._snapshots
        ends = self.ends(batch)
        before = {number: start.file for number, start in self.starts(batch).items()}
        state = {
            number: PartitionState(end, files.get(number, before.get(number)))
            for number, end in ends.items()
        }
        snapshots.commit(
            Manifest(FORMAT, self.checkpoint_id, batch, checkpoint.topic, state, self._rules)
        )

    def _check_partitions(self, manifest: Manifest, batch: int) -> None:
        """Compare a batch's partitions with those of the state before it."""
        checkpoint = self._checkpoint
        now = checkpoint.ends(batch)
        if now is not None and now.keys() != manifest.partitions.keys():
            raise SnapshotError(
                f"{checkpoint.topic} has {len(now)} partitions, but the state in "
                f"{self._snapshots.directory} was made with {len(manifest.partitions)}: its "
                f"instruments may have moved to other partitions. {REPARTITIONED}"
            )

    def _check_rules(self, manifest: Manifest) -> None:
        """Compare the rules with those of the state (older states don't record any)."""
        before = manifest.rules
        if before is None or before == self._rules:
            return
        changed = ", ".join(
            f"{PREFIX}{setting}={shown(before)} (now {shown(self._rules)})"
            for setting, shown in _RULES
            if shown(before) != shown(self._rules)
        )
        raise SnapshotError(
            f"the state in {self._snapshots.directory} was folded with {changed}: by other rules "
            "it would give wrong bars and indicators the place of correct ones. Set these values "
            "again, or run `coinmesh-spark reset` to fold the topic from its first record by the "
            "new ones (a bar or indicator keeps the version that has more trades)"
        )

    def _agree(self, manifest: Manifest) -> None:
        """Compare a manifest with the checkpoint's record of the same batch."""
        checkpoint = self._checkpoint
        where = f"snapshot {manifest.batch} in {self._snapshots.directory}"
        if manifest.topic != checkpoint.topic or manifest.checkpoint != checkpoint.id:
            raise SnapshotError(
                f"{where} belongs to checkpoint {manifest.checkpoint} of {manifest.topic}, not to "
                f"{checkpoint.id} in {checkpoint.directory}. {REMEDY}"
            )
        ends = checkpoint.ends(manifest.batch)
        ours = {number: part.next_offset for number, part in manifest.partitions.items()}
        if ends is not None and ends != ours:
            raise SnapshotError(
                f"{where} goes to offsets {ours}, but checkpoint {checkpoint.directory} ended "
                f"that batch at {ends}. {REMEDY}"
            )
