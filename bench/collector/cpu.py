"""Collector benchmark: CPU time per frame from recorded frames to Kafka-ready bytes.

    .venv/bin/python bench/collector/cpu.py [--rounds 5]

The peer is cryptofeed. Both sides process the same frames alternately within one run; the result is
the median of the rounds' ratios of CPU time.
"""

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from frames import capture_path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from peers import peer_python  # noqa: E402 (beside this folder)


@dataclass
class Side:
    """One side's process."""

    name: str
    python: Path
    script: str
    command: str

    def start(self) -> None:
        """Start the process, which then waits for commands."""
        self.process = subprocess.Popen(
            [self.python, HERE / self.script, capture_path()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self) -> float:
        """Return the CPU microseconds per frame of one pass."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.command}\n")
        self.process.stdin.flush()
        seconds, frames, records = self.process.stdout.readline().split()
        assert int(records) >= int(frames) * 0.99, f"{self.name} made {records} of {frames}"
        return float(seconds) / int(frames) * 1e6


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    if not capture_path().exists():
        sys.exit(f"no capture at {capture_path()}; set COINMESH_RECORDED to its folder")
    ours = Path(sys.executable)
    sides = [
        Side("cryptofeed 2.4.1, Kafka callback", peer_python(HERE), "cpu_peer.py", "go"),
        Side("collector-binance, pure Python", ours, "cpu_ours.py", "python"),
        Side("collector-binance, recording raw frames too", ours, "cpu_ours.py", "recording"),
        Side("collector-binance, compiled", ours, "cpu_ours.py", "compiled"),
        Side("the same, recording raw frames too", ours, "cpu_ours.py", "compiled recording"),
    ]
    for side in sides:
        side.start()
        side.round()  # warm
    results = [[side.round() for side in sides] for _ in range(rounds)]
    for side in sides:
        side.process.terminate()
        side.process.wait()
    print("| | CPU µs/frame (median) | × less than cryptofeed |")
    print("| --- | --- | --- |")
    for index, side in enumerate(sides):
        middle = statistics.median(row[index] for row in results)
        ratio = statistics.median(row[0] / row[index] for row in results)
        print(f"| {side.name} | {middle:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
