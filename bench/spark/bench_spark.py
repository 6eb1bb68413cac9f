"""The Spark stream's performance: sustained trades per second, and the delay from trade to bar.

    .venv/bin/python bench/spark/bench_spark.py [--trades 2000000] [--live-seconds 60]

Starts a separate Kafka, registry, Cassandra and S3. First a backlog is drained: trades of 50
instruments (zipf) over 30 minutes of event time in 4 partitions, 1 % of them duplicates; all
intervals, indicators, both topics and Cassandra are enabled. Then live trades are produced at
1,000/s with a 1 s trigger, and one instrument's open bar in Cassandra is polled for each trade's
arrival. Every bar count is verified: no figure of a wrong result is printed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import psutil
from cassandra.cluster import Cluster
from confluent_kafka import Consumer, Producer, TopicPartition

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_local.provision import ensure, maven
from coinmesh_local.testing import TestMesh, eventually
from meshkit.cassandra import CertificateAuthProvider
from meshkit.kafka import client_config, client_log
from meshkit.registry import Registry
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings

INSTRUMENTS = 50
EVENT_SECONDS = 1800
DUPLICATES = 0.01
NAMES = [f"bench.C{number}-USDT" for number in range(INSTRUMENTS)]
WEIGHTS = [1 / (number + 1) for number in range(INSTRUMENTS)]


class Bench:
    """A mesh, a producer and the application."""

    def __init__(self, mesh: TestMesh, directory: Path) -> None:
        self.mesh, self.directory = mesh, directory
        self.settings = mesh.settings_of("spark-stream")
        self.kafka = client_config(mesh.read(KafkaSettings), "bench")
        registry = Registry(mesh.read(RegistrySettings))
        ids = registry.resolve_now({topics.TRADES.name: Trade})
        self.header = ids.header(topics.TRADES.name)
        self.producer = Producer(
            {
                **self.kafka,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "zstd",
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "queue.buffering.max.messages": 500_000,
            },
            logger=client_log(),
        )
        host, port = mesh.read(CassandraSettings).cassandra_addresses[0]
        self.cluster = Cluster(
            [host],
            port=port,
            protocol_version=5,
            ssl_context=mesh.tls(),
            auth_provider=CertificateAuthProvider(),
        )
        self.cassandra = self.cluster.connect("coinmesh")
        self.ids: Counter[str] = Counter()

    def value(self, instrument: str, trade_id: int, time_us: int, rng: random.Random) -> bytes:
        event = Trade(
            event_id=f"{instrument}:trade:{trade_id}",
            event_time=time_us,
            receive_time=time_us * 1000 + 700_000,
            source="bench",
            type=EVENT_TYPE_TRADE,
            instrument=instrument,
            symbol=instrument[6:].replace("-", ""),
            trade_id=trade_id,
            price_units=10**10 + rng.randrange(10**9),
            price_exponent=-8,
            size_units=rng.randrange(1, 10**11),
            size_exponent=-8,
            taker_side=1 + (trade_id & 1),
            publish_time=time_us + 900,
        )
        return self.header + event.SerializeToString()

    def send(self, instrument: str, value: bytes) -> None:
        while True:
            try:
                self.producer.produce(topics.TRADES.name, value, instrument.encode())
            except BufferError:
                self.producer.poll(0.1)
            else:
                self.producer.poll(0)
                return

    def backlog(self, count: int, begin_us: int) -> int:
        """Produce the backlog and return its number of records."""
        rng = random.Random(20240808)
        chosen = rng.choices(NAMES, WEIGHTS, k=count)
        recent: deque[tuple[str, bytes]] = deque(maxlen=3000)
        sent = 0
        for at, instrument in enumerate(chosen):
            self.ids[instrument] += 1
            time_us = begin_us + at * EVENT_SECONDS * 1_000_000 // count
            value = self.value(instrument, self.ids[instrument], time_us, rng)
            self.send(instrument, value)
            recent.append((instrument, value))
            sent += 1
            if rng.random() < DUPLICATES:
                self.send(*rng.choice(recent))
                sent += 1
        self.producer.flush()
        return sent

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **self.settings,
            "COINMESH_SPARK_JARS": str(maven.directory("spark-jars")),
            "COINMESH_SPARK_CHECKPOINT_DIR": str(self.directory / "checkpoint"),
            "COINMESH_SPARK_SNAPSHOT_DIR": str(self.directory / "snapshots"),
        }
        command = [str(Path(sys.executable).parent / "coinmesh-spark"), "stream", "--only", "bars"]
        with (self.directory / "application.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def progress(self) -> tuple[int, int]:
        """Return the newest batch and the number of records processed up to it."""
        manifests = sorted((self.directory / "snapshots").glob("*.json"))
        if not manifests:
            return -1, 0
        parts = json.loads(manifests[-1].read_text())["partitions"].values()
        return int(manifests[-1].stem), sum(part["next_offset"] for part in parts)

    def trade_counts(self, interval: str) -> Counter[str]:
        """Return the trades by instrument over all bars of an interval."""
        found: Counter[str] = Counter()
        rows = self.cassandra.execute(f"SELECT instrument, bar FROM bars_{interval}", timeout=120)
        for row in rows:
            found[row.instrument] += row.bar.trade_count
        return found

    def end(self) -> int:
        consumer = Consumer({**self.kafka, "group.id": "bench"})
        partitions = [TopicPartition(topics.TRADES.name, p) for p in range(4)]
        total = sum(consumer.get_watermark_offsets(p, 10)[1] for p in partitions)
        consumer.close()
        return total


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the application's processes."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def cpu(processes: list[psutil.Process], name: str) -> float:
    """Return the CPU seconds of those processes whose name starts with `name`."""
    total = 0.0
    for one in processes:
        try:
            times = one.cpu_times() if one.name().startswith(name) else None
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system if times else 0.0
    return total


def mesh_cpu(mesh: TestMesh) -> float:
    """Return the CPU seconds of Kafka and Cassandra."""
    total = 0.0
    for name in ("kafka", "cassandra"):
        times = psutil.Process(mesh.component(name).pids()[0]).cpu_times()
        total += times.user + times.system
    return total


def memory(processes: list[psutil.Process]) -> int:
    """Return the resident memory; pages shared by processes are counted once."""
    total = 0
    for one in processes:
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def drain(bench: Bench, process: subprocess.Popen[bytes], total: int) -> dict[str, float]:
    """Measure the last three quarters of the backlog: by then compilers and caches are warm."""

    def warm() -> bool:
        assert process.poll() is None, "the application ended"
        return bench.progress()[1] >= total // 4

    eventually(warm, "a quarter of the backlog", 300)
    began, (_, at_begin) = time.perf_counter(), bench.progress()

    def spent() -> dict[str, float]:
        processes = tree(process)
        return {
            "python": cpu(processes, "python") + cpu(processes, "coinmesh"),
            "jvm": cpu(processes, "java"),
            "servers": mesh_cpu(bench.mesh),
        }

    before, peak = spent(), 0
    while (done := bench.progress()[1]) < total:
        assert process.poll() is None, "the application ended"
        peak = max(peak, memory(tree(process)))
        time.sleep(0.25)
    seconds, count = time.perf_counter() - began, done - at_begin
    after = spent()
    return {name: (after[name] - before[name]) / count * 1e6 for name in after} | {
        "trades_per_second": count / seconds,
        "peak_mb": peak / 2**20,
    }


def live(bench: Bench, seconds: int, rate: int) -> dict[str, float]:
    """Return the delay from producing a trade to its count in one instrument's open 1 d bar."""
    rng = random.Random(1)
    instrument = NAMES[0]
    select = bench.cassandra.prepare(
        "SELECT bar FROM bars_1d WHERE instrument = ? AND bucket = ? AND start_time = ?"
    )
    now = time.time()
    day = int(now) - int(now) % 86400
    year = int(time.mktime(time.strptime(time.strftime("%Y", time.gmtime(now)), "%Y")))
    waiting: deque[tuple[int, float]] = deque()
    delays: list[float] = []
    began = time.time()
    sent = 0
    while time.time() < began + seconds or waiting:
        due = int((min(time.time(), began + seconds) - began) * rate)
        for chosen in rng.choices(NAMES, WEIGHTS, k=due - sent):
            bench.ids[chosen] += 1
            at = time.time()
            value = bench.value(chosen, bench.ids[chosen], int(at * 1e6), rng)
            bench.send(chosen, value)
            if chosen == instrument:
                waiting.append((bench.ids[chosen], at))
        sent = max(sent, due)
        row = bench.cassandra.execute(select, (instrument, year * 1000, day * 1000)).one()
        seen = time.time()
        while row and waiting and waiting[0][0] <= row.bar.last_trade_id:
            delays.append(seen - waiting.popleft()[1])
        if time.time() > began + seconds + 60:
            raise AssertionError(f"{len(waiting)} trades never reached a bar")
        time.sleep(0.01)
    steady = sorted(delays[len(delays) // 10 :])
    return {
        "p50": statistics.median(steady),
        "p95": steady[int(len(steady) * 0.95)],
        "p99": steady[int(len(steady) * 0.99)],
    }


def main() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trades", type=int, default=2_000_000)
    parser.add_argument("--live-seconds", type=int, default=60)
    parser.add_argument("--live-rate", type=int, default=1000)
    arguments = parser.parse_args()
    ensure(["spark-jars"], print)
    with tempfile.TemporaryDirectory() as name, TestMesh(Path(name, "mesh")) as mesh:
        mesh.require("topics", "schemas", "kafka-access", "cassandra-access", "bucket")
        bench = Bench(mesh, Path(name))
        begin = (int(time.time()) - 86_400 - EVENT_SECONDS) * 1_000_000
        records = bench.backlog(arguments.trades, begin)
        load = os.getloadavg()[0]
        process = bench.start()
        try:
            result = drain(bench, process, records)
            for interval in ("1s", "1m", "5m", "1h", "1d"):
                assert bench.trade_counts(interval) == bench.ids, f"wrong bars of {interval}"
            print(
                f"backlog: {arguments.trades:,} trades + {records - arguments.trades:,} duplicates:"
                f" {result['trades_per_second']:,.0f}/s; CPU seconds per million: workers "
                f"{result['python']:.1f}, Spark's JVM {result['jvm']:.1f}, Kafka and Cassandra "
                f"{result['servers']:.1f}; application's memory "
                f"{result['peak_mb']:,.0f} MB; load average before: {load:.1f}",
                flush=True,
            )
            delays = live(bench, arguments.live_seconds, arguments.live_rate)
            print(
                f"live, {arguments.live_rate:,}/s, 1 s trigger: trade -> bar in Cassandra "
                + ", ".join(f"{name} {value:.2f} s" for name, value in delays.items())
            )
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
