"""Replays of dead letters, read from the audit log, which covers replays from any machine."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager

from coinmesh_cli import audit
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_local.paths import Home

EVENT_ID = "dead_letter_event_id"


@contextmanager
def locked(home: Home) -> Generator[None]:
    """Exclude concurrent replays on this machine, which could send one record twice."""
    home.data.mkdir(parents=True, exist_ok=True)
    with open(home.data / "dlq-replay.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replayed() -> dict[str, str]:
    """Return the time of each dead letter's last replay, by its event id."""
    found: dict[str, str] = {}
    for _, event in audit.events():
        if event.action == pb.AUDIT_ACTION_DEAD_LETTER_REPLAY:
            letter = event.metadata.get(EVENT_ID, "")
            if event.outcome == pb.AUDIT_OUTCOME_ALLOWED:
                found[letter] = audit.time_of(event)
            else:
                found.pop(letter, None)
    return found
