"""Cost of tracing in the collector: CPU of the whole process per frame, with and without it.

    .venv/bin/python bench/tracing/collector_cpu.py [--rounds 5] [--seconds 30]

A separate mesh plays the generated market at about 2,000 frames/s. Two collectors receive it side
by side, one with 1 % of the frames traced to a running Jaeger, one with tracing off, so that load
on the machine affects both alike; they change places from round to round.
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from coinmesh_local.mesh import Options
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh, eventually

SETTLE_SECONDS = 8.0
# A frame creates one event in nearly all cases.
FRAMES = "coinmesh_source_events_total"


class Collector:
    """A separate collector beside the mesh."""

    def __init__(self, mesh: TestMesh, ratio: str) -> None:
        self._mesh, self.ratio = mesh, ratio
        (instance,) = mesh.mesh.instances("collector-binance")
        self._metrics = _free()
        environment = instance.environment | {
            "COINMESH_GRPC_LISTEN": f"127.0.0.1:{_free()}",
            "COINMESH_METRICS_LISTEN": f"127.0.0.1:{self._metrics}",
            "COINMESH_TRACE_SAMPLING_RATIO": ratio,
        }
        self._process = subprocess.Popen(
            [BIN / "collector-binance", "serve"], env=environment, stdout=subprocess.DEVNULL
        )
        eventually(self._has_begun, "it collects", 120)

    def _has_begun(self) -> bool:
        try:
            return self.frames() > 0
        except httpx.TransportError:
            return False

    def frames(self) -> float:
        """Return the number of collected frames."""
        url = f"https://127.0.0.1:{self._metrics}/metrics"
        text = httpx.get(url, verify=self._mesh.tls(), timeout=10).text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{FRAMES}{{", f"{FRAMES} "))
        )

    def cpu(self) -> float:
        """Return the CPU seconds so far."""
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def stop(self) -> None:
        """Stop it in order."""
        self._process.terminate()
        self._process.wait(30)


def _free() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running(mesh: TestMesh, ratios: list[str]) -> Generator[list[Collector]]:
    """Yield collectors with these sampling ratios, side by side."""
    collectors = [Collector(mesh, ratio) for ratio in ratios]
    try:
        time.sleep(SETTLE_SECONDS)
        yield collectors
    finally:
        for collector in collectors:
            collector.stop()


def turn(mesh: TestMesh, ratios: list[str], seconds: float) -> dict[str, tuple[float, float]]:
    """Return CPU µs per frame and frames per second, by sampling ratio."""
    with running(mesh, ratios) as collectors:
        before = [(each.frames(), each.cpu()) for each in collectors]
        time.sleep(seconds)
        after = [(each.frames(), each.cpu()) for each in collectors]
    return {
        each.ratio: ((cpu - cpu0) * 1e6 / (frames - frames0), (frames - frames0) / seconds)
        for each, (frames0, cpu0), (frames, cpu) in zip(collectors, before, after, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", default="1250", help="market events a second")
    arguments = parser.parse_args()
    environment = {
        "COINMESH_SIM_CAPTURE": "",
        "COINMESH_SIM_SYMBOLS": "10",
        "COINMESH_SIM_RATE": arguments.rate,
        "COINMESH_BINANCE_SYMBOLS": "*",
    }
    with (
        TemporaryDirectory(prefix="coinmesh-bench-") as directory,
        TestMesh(Path(directory), Options(ports="free"), environment) as mesh,
    ):
        mesh.require("jaeger", "sim-exchange", "kafka-access", "topics", "schemas")
        ratios, found = ["0", "0.01"], []
        for _ in range(arguments.rounds):
            ratios.reverse()
            row = turn(mesh, ratios, arguments.seconds)
            found.append({ratio: cpu for ratio, (cpu, _) in row.items()})
            told = "  ".join(f"{r}: {cpu:.1f} µs ({rate:.0f}/s)" for r, (cpu, rate) in row.items())
            print(f"{told}  load {os.getloadavg()[0]:.0f}", flush=True)
    for ratio in sorted(ratios):
        print(f"{ratio}: median {statistics.median(row[ratio] for row in found):.1f} µs/frame")
    more = statistics.median(row["0.01"] / row["0"] for row in found) - 1
    print(f"1 % traced: {more * 100:+.1f} % CPU (median of rounds)")


if __name__ == "__main__":
    main()
