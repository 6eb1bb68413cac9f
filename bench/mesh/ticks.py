"""The delay from Kafka's append of a trade to its storage in Cassandra by tick-writer.

Trades of one instrument are produced at an even rate, first 20/s, then `--rate`, without collector
and Spark. tick-writer's own histogram has the delay of each batch's first, oldest trade. At the end
the table must hold exactly the trades that were produced.

    .venv/bin/python bench/mesh/ticks.py [--rate 2000] [--seconds 30]
"""

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
from cassandra.cluster import Cluster
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_SELL, Trade
from coinmesh_contracts.serving import TRADE_SHARDS, trade_partition
from coinmesh_local.testing import TestMesh, eventually
from meshkit.cassandra import CertificateAuthProvider
from meshkit.kafka import client_config, client_log
from meshkit.registry import Registry
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings

INSTRUMENT, SYMBOL = "binance.BENCH-USDT", "BENCHUSDT"
SHARDS = tuple(range(TRADE_SHARDS))
SLOW_RATE, WARM_SECONDS = 20.0, 5.0
WITHIN = (0.5, 1.0, 2.5)  # Bounds of the histogram's buckets, which has none at 2 s.
DELAY, STORED = "coinmesh_ticks_delay_seconds_bucket", "coinmesh_ticks_stored_total"
HEADER = """| rate | trades stored | ≤ 0.5 s | ≤ 1 s | ≤ 2.5 s | p50 | p95 | p99 | CPU of a core |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


class Trades:
    """Produces the trades of one instrument."""

    def __init__(self, mesh: TestMesh) -> None:
        registry = Registry(mesh.read(RegistrySettings))
        header = registry.resolve_now({topics.TRADES.name: Trade}).header(topics.TRADES.name)
        registry.close()
        same = Trade(source="binance", type=EVENT_TYPE_TRADE, instrument=INSTRUMENT, symbol=SYMBOL)
        same.price_exponent = same.size_exponent = -8
        same.taker_side = TAKER_SIDE_SELL
        self._begin = header + same.SerializeToString()  # The fields of the other part follow.
        config = client_config(mesh.read(KafkaSettings), "bench")
        config |= {"enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5}
        self._producer = Producer(config, logger=client_log())
        self.hours: set[int] = set()
        self.sent = 0

    def run(self, rate: float, seconds: float) -> int:
        """Produce trades evenly; return their number when Kafka has acknowledged them."""
        first, total, began = self.sent, round(rate * seconds), time.monotonic()
        while self.sent < first + total:
            due = min(total, math.floor((time.monotonic() - began) * rate) + 1)
            while self.sent < first + due:
                self.sent += 1
                self._produce(self.sent, time.time_ns())
            self._producer.poll(0)
            time.sleep(0.005)
        assert self._producer.flush(60) == 0, "Kafka didn't acknowledge all trades"
        return total

    def _produce(self, number: int, now_ns: int) -> None:
        event = Trade(event_time=now_ns // 1000, receive_time=now_ns, trade_id=number)
        event.event_id = f"{INSTRUMENT}:trade:{number}"
        event.price_units, event.size_units = 60_000_00000000 + number * 1_000_000, 150_000_000
        self.hours.add(trade_partition(event.event_time, number)[0])
        value = self._begin + event.SerializeToString()
        self._producer.produce(topics.TRADES.name, value, INSTRUMENT.encode())


class Writer:
    """The running tick-writer: its metrics and its CPU time."""

    def __init__(self, mesh: TestMesh) -> None:
        targets = {target["job"]: target["url"] for target in mesh.mesh.metrics_targets()}
        self._url, self._mesh = targets["tick-writer"], mesh
        self._pids = mesh.component("tick-writer").pids()

    def read(self) -> tuple[float, dict[float, float]]:
        """Return the number of trades stored and the batches by upper bound of their delay."""
        answer = httpx.get(self._url, verify=self._mesh.tls(), timeout=30).raise_for_status()
        families = text_string_to_metric_families(answer.text)
        samples = [sample for family in families for sample in family.samples]
        buckets = {float(each.labels["le"]): each.value for each in samples if each.name == DELAY}
        return next(each.value for each in samples if each.name == STORED), buckets

    def wait(self, stored: float) -> None:
        """Wait until that many trades are stored."""
        eventually(lambda: self.read()[0] >= stored, f"{stored:,.0f} trades are stored", 300)

    def cpu(self) -> float:
        """Return the CPU seconds of its processes, which must not have been restarted."""
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in self._pids)


def quantile(batches: dict[float, float], share: float) -> str:
    """Return the delay that this share of batches doesn't exceed, interpolated in its bucket."""
    bounds = sorted(bound for bound in batches if not math.isinf(bound))
    counts = [batches[bound] for bound in bounds]
    rank = share * batches[math.inf]
    if rank > counts[-1]:
        return f"> {bounds[-1]:.0f} s"
    return f"{1000 * np.interp(rank, [0.0, *counts], [0.0, *bounds]):.0f} ms"


def measure(trades: Trades, writer: Writer, rate: float, seconds: float) -> None:
    """Produce at one rate and print its row; CPU time counts until the last trade is stored."""
    (stored, before), cpu, began = writer.read(), writer.cpu(), time.monotonic()
    produced = trades.run(rate, seconds)
    actual = produced / (time.monotonic() - began)
    writer.wait(stored + produced)
    used = (writer.cpu() - cpu) / (time.monotonic() - began)
    time.sleep(1)  # The delay is observed after the last write of a batch.
    now, after = writer.read()
    batches = {bound: count - before[bound] for bound, count in after.items()}
    shares = [f"{100 * batches[bound] / batches[math.inf]:.1f} %" for bound in WITHIN]
    delays = [quantile(batches, share) for share in (0.5, 0.95, 0.99)]
    cells = [f"{actual:,.0f}/s", f"{now - stored:,.0f}", *shares, *delays, f"{100 * used:.1f} %"]
    print(f"| {' | '.join(cells)} |", flush=True)


def rows_stored(mesh: TestMesh, hours: set[int]) -> int:
    """Return the number of rows in all partitions of these hours."""
    host, port = mesh.read(CassandraSettings).cassandra_addresses[0]
    login, tls = CertificateAuthProvider(), mesh.tls()
    cluster = Cluster([host], port, auth_provider=login, ssl_context=tls, protocol_version=5)
    where = f"instrument = '{INSTRUMENT}' AND shard IN {SHARDS} AND bucket ="
    with cluster, cluster.connect("coinmesh") as session:
        count = f"SELECT count(*) AS n FROM trades WHERE {where} "
        found = [session.execute(f"{count}{hour * 1000}", timeout=60).one() for hour in hours]
    return sum(one.n for one in found)


def main() -> None:
    """Start the mesh, measure both rates, check the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=2000, help="trades per second")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, TestMesh(Path(name, "mesh")) as mesh:
        mesh.require("tick-writer")
        trades, writer = Trades(mesh), Writer(mesh)
        trades.run(SLOW_RATE, WARM_SECONDS)  # The first trades wait until it has joined its group.
        writer.wait(trades.sent)
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        print(HEADER, flush=True)
        for rate in (SLOW_RATE, options.rate):
            measure(trades, writer, rate, options.seconds)
        found = rows_stored(mesh, trades.hours)
        if found != trades.sent:
            raise SystemExit(f"the table holds {found:,} of {trades.sent:,} produced trades")
        print(f"the table holds exactly the {found:,} produced trades, warm-up included")


if __name__ == "__main__":
    main()
