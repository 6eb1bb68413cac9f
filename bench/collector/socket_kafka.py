"""Collector benchmark: socket → acknowledged by Kafka (acks=all), against cryptofeed's backend.

    .venv/bin/python bench/collector/socket_kafka.py [--rounds 3]

Each side is one process that receives the recorded frames as fast as it reads them; the time is
measured from the first frame until the topics hold every trade (and, for cryptofeed, every quote).
The sides alternate within one run; ours receives the capture for several symbols because it is so
fast.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from frames import capture_path, read

from coinmesh_local.testing import TestMesh, eventually
from meshkit.kafka import client_config, client_log
from meshkit.settings import KafkaSettings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from peers import BIN, peer_python  # noqa: E402 (beside this folder)

SYMBOLS = 5
PEER_TOPICS = ["trades-BINANCE-BTC-USDT", "ticker-BINANCE-BTC-USDT", "book-BINANCE-BTC-USDT"]
# Newer quotes may replace older ones while Kafka has no room: they are counted separately.
OUR_TOPICS = ["market.trades.v1"]
OUR_QUOTES = ["market.quotes.v1"]


class Ends:
    """Record counts of topics."""

    def __init__(self, kafka: dict[str, Any]) -> None:
        self._consumer = Consumer({**kafka, "group.id": "bench"}, logger=client_log())

    def total(self, topics: list[str]) -> int:
        """Return the number of records in all partitions."""
        known = self._consumer.list_topics().topics
        parts = [TopicPartition(name, n) for name in topics for n in known[name].partitions]
        return sum(self._consumer.get_watermark_offsets(part)[1] for part in parts)


def start_feed(count: int, part: int, kind: str) -> tuple["subprocess.Popen[str]", str]:
    """Return the sender and its port."""
    arguments = [sys.executable, HERE / "feed.py", str(count), str(part), kind]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def measure(
    ends: Ends, topics: list[str], expected: int, port: str, process: Any
) -> tuple[float, float]:
    """Return seconds until `expected` more records exist, and the process's CPU seconds."""
    before = ends.total(topics)
    watched = psutil.Process(process.pid)
    cpu = sum(watched.cpu_times()[:2])
    began = time.perf_counter()
    urllib.request.urlopen(f"http://127.0.0.1:{port}/go").close()
    enough = before + expected
    eventually(lambda: ends.total(topics) >= enough, "all records are acknowledged", 600)
    return time.perf_counter() - began, sum(watched.cpu_times()[:2]) - cpu


def run_ours(
    settings: dict[str, str], ends: Ends, counts: tuple[int, ...], log: Path, part: int
) -> Any:
    """Return frames/s, CPU µs per frame and published share of quotes of a collector.

    Each round has its own symbols.
    """
    frames, trades, quotes = counts
    before = ends.total(OUR_QUOTES)
    feed, port = start_feed(SYMBOLS, part, "trades")
    environment = os.environ | settings
    environment |= {
        "COINMESH_BINANCE_WS_URL": f"ws://127.0.0.1:{port}",
        "COINMESH_BINANCE_REST_URL": f"http://127.0.0.1:{port}",
        "COINMESH_BINANCE_MTLS": "0",
        "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [BIN / "collector-binance", "serve"], env=environment, stderr=file
        )
    try:
        eventually(lambda: '"message": "ready"' in log.read_text(), "the collector is ready")
        seconds, cpu = measure(ends, OUR_TOPICS, trades * SYMBOLS, port, process)
        kept = (ends.total(OUR_QUOTES) - before) / quotes / SYMBOLS
    finally:
        process.kill()
        process.wait()
        feed.kill()
        feed.wait()
    return frames * SYMBOLS / seconds, cpu / frames / SYMBOLS * 1e6, kept


def run_peer(kafka: dict[str, Any], ends: Ends, counts: tuple[int, ...]) -> Any:
    """Return frames/s and CPU µs per frame of cryptofeed."""
    frames, trades, quotes = counts
    feed, port = start_feed(1, 0, "aggregated")
    process = subprocess.Popen(
        [peer_python(HERE), HERE / "socket_peer.py", port, json.dumps(kafka)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        connections = psutil.Process(process.pid)
        eventually(
            lambda: any(
                c.raddr and c.raddr.port == int(port) for c in connections.net_connections()
            ),
            "cryptofeed is connected",
        )
        seconds, cpu = measure(ends, PEER_TOPICS[:2], trades + quotes, port, process)
    finally:
        process.kill()
        process.wait()
        feed.kill()
        feed.wait()
    return frames / seconds, cpu / frames * 1e6


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    _, frames = read(capture_path(), aggregated=False)
    kinds = [sum(kind in frame for frame in frames) for kind in (b"@trade", b"@bookTicker")]
    counts = (len(frames), *kinds)
    results: list[tuple[Any, Any]] = []
    with tempfile.TemporaryDirectory() as place, TestMesh(Path(place) / "mesh") as mesh:
        mesh.require("topics", "schemas", "kafka-access")
        kafka = client_config(mesh.read(KafkaSettings), "bench")
        admin = AdminClient(kafka)
        for made in admin.create_topics([NewTopic(name, 1, 1) for name in PEER_TOPICS]).values():
            made.result()
        ends = Ends(kafka)
        for number in range(rounds):
            log = Path(place) / f"collector-{number}.log"
            peer = run_peer(kafka, ends, counts)
            results.append(
                (
                    peer,
                    run_ours(mesh.settings_of("collector-binance"), ends, counts, log, number + 1),
                )
            )
    print("| | frames/s acknowledged (median) | CPU µs/frame (median) |")
    print("| --- | --- | --- |")
    for index, name in enumerate(("cryptofeed 2.4.1, Kafka backend", "collector-binance")):
        speed = statistics.median(row[index][0] for row in results)
        cost = statistics.median(row[index][1] for row in results)
        print(f"| {name} | {speed:,.0f} | {cost:.1f} |")
    faster = statistics.median(ours[0] / peer[0] for peer, ours in results)
    cheaper = statistics.median(peer[1] / ours[1] for peer, ours in results)
    kept = statistics.median(ours[2] for _, ours in results)
    print(f"{kept:.1%} of the quotes were published, the rest replaced by newer ones")
    print(f"{faster:.1f} x the frames/s, {cheaper:.1f} x less CPU per frame")


if __name__ == "__main__":
    main()
