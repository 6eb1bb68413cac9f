"""Find the mesh's processes by a variable in their environment, so that no record goes stale.

Every process is started with COINMESH_INSTANCE=<home>|<instance>|<digest>, which its children
inherit. There are no pid files: /proc shows the running processes, also after a kill -9 of any.
"""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "COINMESH_INSTANCE"
#: Index of `starttime` in /proc/PID/stat, counted from the field after the command's name
#: (proc(5)).
_START_FIELD = 19
#: The state of an instance that runs without being registered with its supervisor.
UNSUPERVISED = "unsupervised"


@dataclass
class Found:
    """The live processes of one instance."""

    instance: str
    digest: str = ""
    #: The process that was started directly, a session leader; None when only children remain.
    leader: int | None = None
    members: list[int] = field(default_factory=list)

    def memory(self) -> int:
        """Return the resident bytes of all its processes; shared pages count in each."""
        total = 0
        for pid in self.members:
            try:
                total += psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue
        return total

    def started(self) -> float | None:
        """Return the Unix time at which the leader started, from /proc; None without a leader.

        psutil's value is up to a second early: it rounds the boot time.
        """
        try:
            fields = Path(f"/proc/{self.leader}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted + int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")


def columns(found: Found | None) -> dict[str, object]:
    """Return the columns of a row of `coinmesh status` that come from /proc."""
    return {
        "pid": found.leader if found else None,
        "started": found.started() if found else None,
        "memory": found.memory() if found else 0,
    }


def mark(home: Path, instance: str, digest: str) -> str:
    """Return the value of COINMESH_INSTANCE."""
    return f"{home}|{instance}|{digest}"


def find(home: Path) -> dict[str, Found]:
    """Return all live processes of this home by instance."""
    found: dict[str, Found] = {}
    prefix = f"{MARK}={home}|".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            environment = Path("/proc", entry.name, "environ").read_bytes()
            line = next((v for v in environment.split(b"\0") if v.startswith(prefix)), None)
            leads = line is not None and os.getsid(pid) == pid
        except OSError:
            continue
        if line is None:
            continue
        instance, digest = line[len(prefix) :].decode().split("|")
        one = found.setdefault(instance, Found(instance, digest))
        one.members.append(pid)
        if leads:
            one.leader, one.digest = pid, digest
    return found


def send(pid: int, number: int) -> None:
    """Send a signal to `pid`, which may have exited already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def gone(pid: int) -> None:
    """Wait until `pid` has exited, child or not; reaping a child is left to its parent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def readable() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def stop(home: Path, instance: str, stop_signal: str, grace: float) -> None:
    """Stop every process of `instance`: signal the leader, after `grace` seconds SIGKILL all.

    Children that outlive their leader are killed too.
    """
    found = find(home).get(instance)
    if found is None:
        return
    if found.leader is not None:
        send(found.leader, signal.Signals[stop_signal])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await gone(found.leader)
    while (left := find(home).get(instance)) is not None:
        for pid in left.members:
            send(pid, signal.SIGKILL)
        await asyncio.gather(*(gone(pid) for pid in left.members))
