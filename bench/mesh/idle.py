"""CPU and memory of an idle mesh, component by component.

Starts the default profile against the simulated exchange's generated market (one instrument), waits
until the first bar is served and the mesh has settled, then reads CPU time and proportional set
size of every process from /proc. CPU time is the result because it depends little on other load.
The JVMs need minutes until their repeated code is compiled.

    .venv/bin/python bench/mesh/idle.py [--seconds 120] [--settle 240] [--threads kafka]
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from coinmesh_cli.first_bar import wait_for_first_bar
from coinmesh_cli.health import gather
from coinmesh_cli.progress import Progress
from coinmesh_local import processes
from coinmesh_local.testing import TestMesh


def cpu_seconds(home: Path) -> dict[tuple[str, int], float]:
    """Return user and system time by component instance and process."""
    used: dict[tuple[str, int], float] = {}
    for name, instance in processes.find(home).items():
        for pid in instance.members:
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            # Includes short-lived children that were waited for.
            own, children = times.user + times.system, times.children_user + times.children_system
            used[name, pid] = own + children
    return used


def thread_seconds(home: Path, instance: str) -> Counter[str]:
    """Return user and system time by thread name of one instance."""
    used: Counter[str] = Counter()
    for pid in processes.find(home)[instance].members:
        for thread in Path("/proc", str(pid), "task").iterdir():
            try:
                name = (thread / "comm").read_text().strip()
                fields = (thread / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used[f"{pid} {name}"] += (int(fields[11]) + int(fields[12])) / 100
    return used


def proportional_bytes(home: Path) -> Counter[str]:
    """Return the proportional set size by component instance: shared pages are divided by users."""
    used: Counter[str] = Counter()
    for name, instance in processes.find(home).items():
        for pid in instance.members:
            try:
                used[name] += psutil.Process(pid).memory_full_info().pss
            except psutil.Error:
                continue
    return used


def events(mesh: TestMesh) -> int:
    """Return how many events the collector has published since its start."""
    return sum(row["events"] for row in gather(mesh.mesh).streams or ())


def measure(mesh: TestMesh, settle: float, seconds: float, threads: list[str]) -> None:
    """Print one row per component and the totals."""
    home = mesh.home.root
    time.sleep(settle)
    events_start = events(mesh)
    start, threads_start = cpu_seconds(home), {t: thread_seconds(home, t) for t in threads}
    started_at = time.monotonic()
    time.sleep(seconds)
    end, threads_end = cpu_seconds(home), {t: thread_seconds(home, t) for t in threads}
    elapsed = time.monotonic() - started_at
    print(f"{(events(mesh) - events_start) / elapsed:.0f} events/s\n")
    percent: Counter[str] = Counter()
    for key, used in end.items():
        percent[key[0]] += 100 * (used - start.get(key, 0.0)) / elapsed
    memory = proportional_bytes(home)
    print("| component | CPU, % of one core | memory, MiB |\n| --- | --- | --- |")
    for name, share in percent.most_common():
        print(f"| {name} | {share:.1f} | {memory[name] / 2**20:.0f} |")
    print(f"| **all** | **{percent.total():.1f}** | **{memory.total() / 2**20:.0f}** |")
    for name in threads:
        print(f"\n{name}, by thread:")
        used_by_thread = threads_end[name] - threads_start[name]
        for thread, used in used_by_thread.most_common(20):
            print(f"  {100 * used / elapsed:5.2f} %  {thread}")


def main() -> None:
    """Start the mesh, measure it, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--settle", type=float, default=240)
    parser.add_argument("--rate", type=float, default=20, help="market events per second")
    parser.add_argument("--threads", nargs="*", default=[], metavar="COMPONENT")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="coinmesh-idle-"))
    # Without a capture: a recorded day is played at several times the idle rate.
    market = {
        "COINMESH_SIM_CAPTURE": "",
        "COINMESH_SIM_SYMBOLS": "BTCUSDT",
        "COINMESH_SIM_RATE": str(args.rate),
    }
    mesh = TestMesh(root, environment=market)
    try:
        mesh.require(*mesh.mesh.at_once())
        with Progress() as progress:
            wait_for_first_bar(mesh.mesh, progress)
        measure(mesh, args.settle, args.seconds, args.threads)
    finally:
        mesh.close()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
