"""Number of instruments and subscribers per gateway process, at one quote a second each.

Kafka, Redis, Cassandra and the gateway are real. The quotes are published by this process and read
by another one, over gRPC with mutual TLS like Envoy's. The result is the gateway's CPU time per
update and per delivery, which depends little on other load; capacity is the number that fits into
70 % of a core.

    .venv/bin/python bench/gateway/capacity.py [--seconds 20]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import grpc.aio
import psutil
from confluent_kafka import Producer
from market import COMPONENTS, PRICE, instrument, send, start_gateway

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_QUOTE
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.market_service_pb2_grpc import MarketServiceStub
from coinmesh_local.testing import TestMesh, eventually
from meshkit.authz import User, stated
from meshkit.kafka import client_config
from meshkit.registry import Registry
from meshkit.settings import KafkaSettings, RegistrySettings
from meshkit.tls import CertificateFiles

STREAMS_PER_CONNECTION = 200
SHARE = 0.7
#: Instruments and subscribers (each of one instrument) of each run.
RUNS = ((500, 0), (2000, 0), (2000, 500), (2000, 1000))


def credentials(tls: Path) -> grpc.ChannelCredentials:
    """Return Envoy's credentials."""
    pair = CertificateFiles(tls).read()
    return grpc.ssl_channel_credentials(pair.roots, pair.key, pair.chain)


async def read(address: str, tls: Path, names: list[str]) -> None:
    """Read a stream for each name; answer each line of stdin with the number of events."""
    counts = [0] * len(names)
    pending, all_open = set(range(len(names))), asyncio.Event()

    async def stream(stub: MarketServiceStub, number: int) -> None:
        request = api.StreamMarketRequest(instruments=[names[number]], channels=["quote"])
        metadata = stated(User("bench", ("viewer",), "free"))
        async for message in stub.StreamMarket(request, metadata=metadata):
            pending.discard(number)
            if not pending:
                all_open.set()
            counts[number] += len(message.batch.events)

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.secure_channel(address, credentials(tls), options)
        for _ in range(0, len(names), STREAMS_PER_CONNECTION)
    ]
    stubs = [MarketServiceStub(channel) for channel in channels]
    tasks = [
        asyncio.create_task(stream(stubs[number // STREAMS_PER_CONNECTION], number))
        for number in range(len(names))
    ]
    await all_open.wait()
    while await asyncio.to_thread(sys.stdin.readline):
        print(sum(counts), flush=True)
    for task in tasks:
        task.cancel()


class Market:
    """Publish a quote of each instrument, evenly over each second."""

    def __init__(self, mesh: TestMesh) -> None:
        registry = Registry(mesh.read(RegistrySettings))
        ids = registry.resolve_now({topics.QUOTES.name: Quote})
        registry.close()
        self._header = ids.header(topics.QUOTES.name)
        config = client_config(mesh.read(KafkaSettings), "bench")
        self._producer = Producer(config | {"partitioner": "murmur2_random", "linger.ms": 5})
        self._update = 0
        self.published = 0

    def run(self, names: list[str], seconds: float) -> None:
        """Publish for `seconds` seconds."""
        start = time.monotonic()
        for second in range(round(seconds)):
            self._update += 1
            for number, name in enumerate(names):
                event = Quote(
                    event_id=f"{name}:quote:{self._update}",
                    receive_time=time.time_ns(),
                    source="binance",
                    type=EVENT_TYPE_QUOTE,
                    instrument=name,
                    symbol="BTCUSDT",
                    update_id=self._update,
                    bid_price_units=PRICE + self._update,
                    bid_size_units=150_000_000,
                    ask_price_units=PRICE + self._update + 1_000_000,
                    ask_size_units=250_000_000,
                    price_exponent=-8,
                    size_exponent=-8,
                )
                value = self._header + event.SerializeToString()
                self._producer.produce(topics.QUOTES.name, value, name.encode())
                self.published += 1
                if number % 50 == 0:
                    self._producer.poll(0)
                    due = start + second + number / len(names)
                    time.sleep(max(0.0, due - time.monotonic()))
        assert self._producer.flush(60) == 0


class Readers:
    """The process of the subscribers."""

    def __init__(self, mesh: TestMesh, address: str, names: list[str]) -> None:
        tls = str(mesh.home.tls / "envoy")
        command = [sys.executable, __file__, "--read", address, tls, *names]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def events(self) -> int:
        """Return the number of events read so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Stop reading."""
        self._process.communicate(timeout=60)


def measure(
    mesh: TestMesh, address: str, gateway: psutil.Process, names: list[str], seconds: float
) -> None:
    """Run each combination and print the gateway's CPU time per update and per delivery."""
    market = Market(mesh)
    per_update = 0.0
    for instruments, subscribers in RUNS:
        chosen = names[:instruments]
        readers = Readers(mesh, address, chosen[:subscribers]) if subscribers else None
        if readers is not None:
            readers.events()
        market.run(chosen, 3)
        published, delivered = market.published, readers.events() if readers else 0
        cpu = sum(gateway.cpu_times()[:2])
        market.run(chosen, seconds)
        used = sum(gateway.cpu_times()[:2]) - cpu
        updates = market.published - published
        deliveries = (readers.events() if readers else 0) - delivered
        row = {
            "instruments": instruments,
            "subscribers": subscribers,
            "updates": updates,
            "deliveries": deliveries,
            "cpu_percent_of_core": round(100 * used / seconds, 1),
        }
        if deliveries:
            per_delivery = (used - updates * per_update) / deliveries
            row["cpu_us_per_delivery"] = round(per_delivery * 1e6, 1)
            row["subscribers_at_70_percent"] = round(
                (SHARE - instruments * per_update) / per_delivery
            )
        else:
            per_update = used / updates
            row["cpu_us_per_update"] = round(per_update * 1e6, 1)
            row["instruments_at_70_percent"] = round(SHARE / per_update)
        print(json.dumps(row), flush=True)
        if readers is not None:
            readers.close()


def main() -> None:
    """Start the mesh and print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--mesh", type=Path, help="directory of a mesh to use and leave running")
    parser.add_argument("--read", nargs="+", metavar=("ADDRESS", "TLS"))
    options = parser.parse_args()
    if options.read:
        asyncio.run(read(options.read[0], Path(options.read[1]), options.read[2:]))
        return
    names = [f"binance.B{number:05d}-USDT" for number in range(max(run[0] for run in RUNS))]
    with tempfile.TemporaryDirectory(prefix="coinmesh-bench-") as root:
        directory = Path(root)
        home = (options.mesh or directory / "mesh").absolute()
        with TestMesh(home, keeps_running=options.mesh is not None) as mesh:
            mesh.require(*COMPONENTS)
            send(mesh, *map(instrument, names))
            command = Path(sys.executable).with_name("query-gateway")
            process, address = start_gateway(mesh, command, directory / "gateway.log")
            try:
                log = directory / "gateway.log"
                eventually(lambda: '"ready"' in log.read_text(), "the gateway is ready")
                measure(mesh, address, psutil.Process(process.pid), names, options.seconds)
            finally:
                process.terminate()
                process.wait(60)


if __name__ == "__main__":
    main()
