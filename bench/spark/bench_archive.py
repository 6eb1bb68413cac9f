"""How fast the raw archive catches up with a backlog of trades of 50 instruments (zipf).

They are produced to the topic's partitions; then `coinmesh-spark stream --only archive` starts with
its default settings. Measured from the first object, when Spark's start is over, until the manifest
accounts for every offset; records that are in objects by then don't count. Manifests are verified.

    .venv/bin/python bench/spark/bench_archive.py [--records 1000000]
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from coinmesh_archive.store import ArchiveStore
from coinmesh_archive.topic_log import TopicLogs
from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_SELL, Trade
from coinmesh_local.provision import ensure, locations
from coinmesh_local.testing import TestMesh, eventually
from meshkit.kafka import client_config, client_log
from meshkit.registry import Registry
from meshkit.settings import KafkaSettings, RegistrySettings, S3Settings

TOPIC = topics.TRADES.name
NAMES = [f"binance.C{number}-USDT" for number in range(50)]
WEIGHTS = [1 / (number + 1) for number in range(len(NAMES))]


def produce(mesh: TestMesh, count: int) -> dict[int, int]:
    """Produce the backlog; return the end offset of each partition."""
    registry = Registry(mesh.read(RegistrySettings))
    header = registry.resolve_now({TOPIC: Trade}).header(TOPIC)
    registry.close()
    kafka = client_config(mesh.read(KafkaSettings), "bench")
    options = {"enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5}
    producer = Producer({**kafka, **options, "compression.type": "zstd"}, logger=client_log())
    rng = random.Random(20240808)
    for at, instrument in enumerate(rng.choices(NAMES, WEIGHTS, k=count), 3_000_000_000):
        now_us = time.time_ns() // 1000
        event = Trade(instrument=instrument, symbol=instrument[8:].replace("-", ""), trade_id=at)
        event.event_id, event.source = f"{instrument}:trade:{at}", "binance"
        event.type, event.taker_side = EVENT_TYPE_TRADE, TAKER_SIDE_SELL
        event.event_time, event.publish_time = now_us, now_us + 900
        event.receive_time = now_us * 1000 + 1_700_000
        event.price_units = 60_000_00000000 + rng.randrange(100_000) * 1_000_000
        event.size_units = rng.randrange(1, 10**9) * 1000
        event.price_exponent = event.size_exponent = -8
        producer.produce(TOPIC, header + event.SerializeToString(), instrument.encode())
        if at % 50_000 == 0:  # The producer's queue holds 100,000.
            producer.flush(120)
    assert producer.flush(120) == 0, "Kafka didn't acknowledge all records"
    bounds = TopicLogs(AdminClient(kafka, logger=client_log())).read([TOPIC])[TOPIC].bounds
    ends = {number: end for number, (_, end) in bounds.items()}
    assert sum(ends.values()) == count, f"Kafka has {sum(ends.values())} of {count} records"
    return ends


def start(mesh: TestMesh, directory: Path) -> subprocess.Popen[bytes]:
    """Start the application."""
    places = locations()
    settings = {
        "JAVA_HOME": places["jdk17"],
        "COINMESH_SPARK_JARS": places["cache.spark-jars"],
        "COINMESH_SPARK_CHECKPOINT_DIR": str(directory / "checkpoint"),
        "COINMESH_SPARK_SNAPSHOT_DIR": str(directory / "snapshots"),
    }
    environment = {**os.environ, **mesh.settings_of("spark-stream"), **settings}
    program = str(Path(sys.executable).with_name("coinmesh-spark"))
    command = [program, "stream", "--only", "archive"]
    with (directory / "application.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def cpu(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the CPU seconds of the JVM and of Python, ended children included."""
    root = psutil.Process(process.pid)
    used = {"JVM": 0.0, "Python": 0.0}
    for one in (root, *root.children(recursive=True)):
        try:
            times, kind = one.cpu_times(), "JVM" if one.name() == "java" else "Python"
        except psutil.NoSuchProcess:
            continue
        used[kind] += times.user + times.system + times.children_user + times.children_system
    return used


def in_objects(store: ArchiveStore) -> int:
    """Return the number of records in all objects, by the offsets in their keys."""
    names = [key.rpartition("/")[2].split("-") for key, _ in store.objects(TOPIC)]
    return sum(int(last) - int(first) + 1 for _, first, last, _ in names)


def measure(
    mesh: TestMesh, process: subprocess.Popen[bytes], ends: dict[int, int], log: Path
) -> str:
    """Wait until the archive has everything, verify it, and return the figures."""
    store, began, count = ArchiveStore(mesh.read(S3Settings)), time.monotonic(), sum(ends.values())

    def runs() -> bool:
        time.sleep(0.1)
        assert process.poll() is None, log.read_text()[-4000:]
        return True

    def complete() -> bool:
        parts = one.manifest.current.partitions if (one := store.newest(TOPIC)) else {}
        return {number: part.next for number, part in parts.items()} == ends

    before = eventually(lambda: runs() and in_objects(store), "the first object", 300)
    first, used = time.monotonic(), cpu(process)
    eventually(lambda: runs() and complete(), "all records are archived", 1800)
    seconds, after = time.monotonic() - first, cpu(process)
    stored = [store.load(TOPIC, date) for date in store.dates(TOPIC)]
    manifests = [one.manifest for one in stored if one is not None]
    faults = [fault for one in manifests for fault in one.faults()]
    parts = [part for one in manifests for part in one.current.partitions.values()]
    objects, found = [o for p in parts for o in p.objects], sum(part.records for part in parts)
    assert not faults, faults[0]
    assert found == count, f"{found:,} of {count:,} records are archived"
    measured = count - before
    million = ", ".join(f"{n} {(after[n] - used[n]) / measured * 1e6:.1f}" for n in used)
    return (
        f"first object {first - began:.1f} s after the start; then {measured:,} of {count:,} "
        f"records in {seconds:.1f} s: {measured / seconds:,.0f}/s; CPU seconds per million: "
        f"{million}; {len(objects)} objects, {sum(o.size for o in objects) / count:.1f} bytes per "
        f"record of {sum(o.payload for o in objects) / count:.1f} (key and value)"
    )


def main() -> None:
    """Start the mesh, produce, archive, verify."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args()
    ensure(["jdk17", "spark-jars"], print)
    with tempfile.TemporaryDirectory() as name, TestMesh(Path(name, "mesh")) as mesh:
        mesh.require("topics", "schemas", "kafka-access", "bucket")
        ends = produce(mesh, options.records)
        print(f"load average before: {os.getloadavg()[0]:.1f}", flush=True)
        process = start(mesh, Path(name))
        try:
            print(measure(mesh, process, ends, Path(name, "application.log")))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
