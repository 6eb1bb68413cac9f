"""Export the supervisor's state of every component as metrics.

This covers components that export no metrics themselves: Vault, the object store, the log shipper …
Run by `python -m coinmesh_local.component_exporter`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psutil
from pydantic import Field

from coinmesh_local import control, processes
from coinmesh_local.paths import Home
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from meshkit.service import configure, run, serve
from meshkit.settings import ServiceSettings

LABELS: Final = ("component", "replica")
#: Process ids are reused; together with the start time they are unique.
Process = tuple[int, float]


class ExporterSettings(ServiceSettings):
    """Settings of the exporter."""

    components_interval_seconds: float = Field(
        15.0, gt=0, description="how often every component is probed", examples=["15"]
    )


@dataclass(frozen=True)
class Use:
    """Resources used by a component's processes.

    CPU time and memory are sums; the descriptor counts are those of the process nearest to its
    limit.
    """

    cpu_seconds: float
    resident_bytes: int
    open_fds: int
    max_fds: int


class Components(Resource):
    """Poll the supervisor periodically; scrapes return the result of the last poll."""

    def __init__(self, home: Home, metrics: Metrics, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._home = home
        self._rows: list[dict[str, Any]] = []
        self._use: dict[str, Use] = {}
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._cpu_before: dict[Process, float] = {}
        self._answered = time.time()
        metrics.read_gauge(
            "supervisor_answer_time_seconds",
            "When the supervisor last told of its components",
            (),
            lambda: {(): self._answered},
        )
        gauge, counter = metrics.read_gauge, metrics.read_counter
        gauge("component_ready", "1 if its probe was answered", LABELS, lambda: self._told("ready"))
        counter(
            "component_restarts",
            "Starts after a crash",
            LABELS,
            lambda: self._told("restarts"),
        )
        counter(
            "component_cpu_seconds",
            "CPU time of its processes",
            LABELS,
            lambda: self._used("cpu_seconds"),
        )
        gauge(
            "component_resident_bytes",
            "Memory of its processes; what they share counts in each",
            LABELS,
            lambda: self._used("resident_bytes"),
        )
        gauge(
            "component_open_fds",
            "Open descriptors of that of its processes which is nearest to its limit",
            LABELS,
            lambda: self._used("open_fds"),
        )
        gauge("component_max_fds", "That process's limit", LABELS, lambda: self._used("max_fds"))

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(self._interval_seconds)

    def look(self) -> None:
        """Poll once; without a response no component is reported."""
        rows = _ask(self._home)
        if rows is None:
            self._rows = []
            return
        found = processes.find(self._home.root)
        names = {str(row["name"]) for row in rows}
        # CPU time from before a restart stays in the counter.
        use = {name: self._look_at(one) for name, one in found.items() if name in names}
        alive = {pid for one in found.values() for pid in one.members}
        self._cpu_before = {k: v for k, v in self._cpu_before.items() if k[0] in alive}
        self._use, self._rows, self._answered = use, rows, time.time()

    def _look_at(self, found: processes.Found) -> Use:
        resident, nearest = 0, (0, 1)
        for pid in found.members:
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    key, times = (pid, process.create_time()), process.cpu_times()
                    resident += process.memory_info().rss
                    fds = (process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)[0])
            except psutil.Error:  # it has exited meanwhile
                continue
            cpu = times.user + times.system
            # A sum over the live processes would decrease when one of them exits.
            self._cpu[found.instance] += cpu - self._cpu_before.get(key, 0)
            self._cpu_before[key] = cpu
            nearest = max(nearest, fds, key=lambda one: one[0] / one[1])
        return Use(self._cpu[found.instance], resident, *nearest)

    def _told(self, field: str) -> Mapping[tuple[str, ...], float]:
        return {_labels(row): float(row[field]) for row in _wanted(self._rows)}

    def _used(self, field: str) -> Mapping[tuple[str, ...], float]:
        return {
            _labels(row): getattr(self._use[row["name"]], field)
            for row in _wanted(self._rows)
            if row["name"] in self._use
        }


def _labels(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["component"], row["name"]


def _wanted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of services that should run.

    Excluded are components stopped on purpose and those in their first start (which may include a
    build and has its own time limit). Components that run unsupervised because the supervisor was
    killed count as not ready.
    """
    return [
        row
        for row in rows
        if row["kind"] == "service"
        and (row["state"] != "stopped" or row["memory"])
        and (row["state"] != "starting" or row["restarts"])
    ]


def _ask(home: Home) -> list[dict[str, Any]] | None:
    """Return the supervisor's rows, None when there is no supervisor or it is about to exit."""
    client = control.connect(home)
    if client is None:
        return None
    try:
        conversation = control.Conversation(client, {"op": "status"})
    except control.Leaving:
        return None
    try:
        return conversation.answer()["rows"]
    except (control.SupervisorError, OSError):
        return None
    finally:
        conversation.close()


async def export(settings: ExporterSettings) -> int:
    """Run the exporter until shutdown and return the exit status."""
    metrics = Metrics()
    home, seconds = Home.from_environment(), settings.components_interval_seconds
    components = Components(home, metrics, seconds)
    return await serve(settings, resources=[components], metrics=metrics)


if __name__ == "__main__":
    raise SystemExit(run(export(configure(ExporterSettings))))
