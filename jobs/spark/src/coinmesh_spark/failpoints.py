"""Points at which a test can kill a process; without its two variables they do nothing.

COINMESH_SPARK_FAILPOINTS is a comma-separated list of `point:batch:victim`, with the victim one of
worker, jvm and driver; COINMESH_SPARK_FAILPOINT_DIR records the triggered ones, so each triggers
once even if its batch is run again.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

POINTS: Final = (
    *("decoded", "folded", "written", "half", "sent", "saved", "reported", "committed"),
    *("archived", "collected", "listed", "retired"),
)
"""Of the bars: decoded, folded: before any effect; written: after Cassandra; half: some records are
on Kafka; sent: after Kafka; saved: after the snapshot; reported: before the manifest; committed:
after it. Of the archive: archived: after an object; collected: before the first manifest; listed:
after a topic's manifest; retired: after the replaced objects were deleted."""


def reach(point: str, batch: int, pids: dict[str, int]) -> None:
    """Kill the victim if a test has set this point for this batch; `pids` are driver and jvm."""
    wanted = os.environ.get("COINMESH_SPARK_FAILPOINTS")
    if not wanted:
        return
    struck = Path(os.environ["COINMESH_SPARK_FAILPOINT_DIR"])
    for one in wanted.split(","):
        name, number, victim = one.split(":")
        if name != point or int(number) > batch:
            continue
        try:
            (struck / one.replace(":", "-")).touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(pids.get(victim, os.getpid()), signal.SIGKILL)
