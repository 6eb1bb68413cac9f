"""What tracing costs the collector: CPU of the whole process per frame, with and without it.

    .venv/bin/python bench/tracing/collector_cpu.py [--rounds 5] [--seconds 20]

A mesh of its own plays the generated market at about 2,000 frames/s. The collector runs by turns
with 1 % of the frames traced to a running Jaeger, and with tracing off; what a turn measures begins
once the collector is live. CPU is the process's own, so other load shows less than in elapsed time.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from tempfile import mkdtemp

import httpx
import psutil

from coinmesh_local.mesh import Options
from coinmesh_local.testing import TestMesh

SETTLE_SECONDS = 6.0
# A frame makes one event in nearly all cases.
FRAMES = "coinmesh_collector_events_total"


def scraped(mesh: TestMesh, name: str) -> float:
    """The sum of a metric's samples."""
    address = mesh.endpoints["collector-binance-metrics"]
    text = httpx.get(address, verify=mesh.tls(), timeout=10).text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((f"{name}{{", f"{name} "))
    )


def turn(mesh: TestMesh, ratio: str, seconds: float) -> tuple[float, float]:
    """CPU µs per frame and frames per second of a collector that has been started anew."""
    mesh.environment["COINMESH_TRACE_SAMPLING_RATIO"] = ratio
    collector = mesh.component("collector-binance")
    collector.stop()
    collector.start()
    time.sleep(SETTLE_SECONDS)
    process = psutil.Process(collector.pids()[0])
    frames, cpu = scraped(mesh, FRAMES), sum(process.cpu_times()[:2])
    began = time.perf_counter()
    time.sleep(seconds)
    frames, cpu = scraped(mesh, FRAMES) - frames, sum(process.cpu_times()[:2]) - cpu
    return cpu * 1e6 / frames, frames / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", default="1250", help="market events a second")
    arguments = parser.parse_args()
    environment = {
        "COINMESH_SIM_CAPTURE": "",
        "COINMESH_SIM_SYMBOLS": "10",
        "COINMESH_SIM_RATE": arguments.rate,
        "COINMESH_BINANCE_SYMBOLS": "*",
    }
    with TestMesh(Path(mkdtemp()), Options(ports="free"), environment) as mesh:
        mesh.require("jaeger", "collector-binance")
        rows: dict[str, list[float]] = {"0": [], "0.01": []}
        for number in range(arguments.rounds):
            # The order changes, so that neither side always comes second.
            for ratio in sorted(rows, reverse=bool(number % 2)):
                cpu, rate = turn(mesh, ratio, arguments.seconds)
                rows[ratio].append(cpu)
                load = os.getloadavg()[0]
                print(f"{ratio:>5}  {cpu:7.1f} µs/frame  {rate:6.0f} frames/s  load {load:.0f}")
    ratios = [on / off for off, on in zip(rows["0"], rows["0.01"], strict=True)]
    for ratio, found in rows.items():
        print(f"{ratio:>5}: median {statistics.median(found):.1f} µs/frame")
    print(f"1 % traced: {(statistics.median(ratios) - 1) * 100:+.1f} % CPU (median of rounds)")


if __name__ == "__main__":
    main()
