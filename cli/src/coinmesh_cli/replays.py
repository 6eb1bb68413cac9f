"""Which dead letters were replayed: a journal in the home, one JSON line per replay."""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from coinmesh_local.paths import Home


class Journal:
    """`data/dlq-replays.jsonl`: appended and synced after each acknowledgement."""

    def __init__(self, home: Home) -> None:
        self._path = home.data / "dlq-replays.jsonl"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other replays out: two at a time could send one record twice."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def replayed(self) -> dict[str, dict[str, Any]]:
        """The last replay of each dead letter by event id; a torn last line is left out."""
        found: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                found[entry["event_id"]] = entry
        return found

    def record(self, event_id: str, letter: str, topic: str, partition: int, offset: int) -> None:
        """Note a replay that Kafka has acknowledged."""
        entry = {
            "event_id": event_id,
            "dead_letter": letter,
            "to": f"{topic} {partition}@{offset}",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with open(self._path, "a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
