"""The market of the gateway benchmarks: its events, its stored bars, and one gateway."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent
from confluent_kafka import Producer
from google.protobuf.message import Message

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_BAR, EVENT_TYPE_INSTRUMENT
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.serving import INTERVALS, write_time
from coinmesh_local.testing import TestMesh, eventually
from meshkit.cassandra import CertificateAuthProvider
from meshkit.kafka import client_config
from meshkit.registry import Registry
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings
from query_gateway import bars
from query_gateway.intervals import bucket

COMPONENTS = ("topics", "schemas", "cassandra-access", "kafka-access", "redis")
PRICE = 60_000_00000000
TRADES = 3


def instrument(name: str) -> Instrument:
    """Return the instrument's event, as the collector publishes it."""
    base, quote = name.partition(".")[2].split("-")
    return Instrument(
        event_id=f"{name}:instrument",
        receive_time=1,
        source="binance",
        type=EVENT_TYPE_INSTRUMENT,
        instrument=name,
        symbol=base + quote,
        base_asset=base,
        quote_asset=quote,
        price_exponent=-8,
        size_exponent=-8,
        tick_size=1_000_000,
        lot_size=1_000,
        min_notional="5.00000000",
        status="TRADING",
    )


def bar(name: str, start_ms: int, interval: str = "1m", price: int = PRICE) -> Bar:
    """Return a closed bar of three trades, as the Spark job publishes it."""
    seconds, revision = INTERVALS[interval], 2 * TRADES + 1
    return Bar(
        event_id=f"{name}:bar:{seconds}:{start_ms}:0:{revision}",
        event_time=start_ms * 1000,
        source="coinmesh",
        type=EVENT_TYPE_BAR,
        instrument=name,
        interval_seconds=seconds,
        open_units=price,
        high_units=price + 3_000_000,
        low_units=price - 3_000_000,
        close_units=price + 1_000_000,
        price_exponent=-8,
        size_exponent=-8,
        volume="0.00300000",
        quote_volume="180.0000000000000000",
        vwap="60000.0000000000000000",
        trade_count=TRADES,
        taker_buy_volume="0.00300000",
        taker_buy_quote_volume="180.0000000000000000",
        final=True,
        revision=revision,
        run="checkpoint/7",
        first_trade_id=start_ms,
        last_trade_id=start_ms + TRADES - 1,
    )


def send(mesh: TestMesh, *events: Message) -> None:
    """Publish events and wait until Kafka has acknowledged them."""
    names = {topic.message: topic.name for topic in topics.ALL if topic.message is not None}
    registry = Registry(mesh.read(RegistrySettings))
    ids = registry.resolve_now({name: message for message, name in names.items()})
    registry.close()
    config = client_config(mesh.read(KafkaSettings), "bench")
    producer = Producer(config | {"partitioner": "murmur2_random"})
    for event in events:
        topic = names[type(event)]
        value = framing.header(ids.ids[topic]) + event.SerializeToString()
        producer.produce(topic, value, event.instrument.encode())  # type: ignore[attr-defined]
    assert producer.flush(60) == 0


def store(mesh: TestMesh, name: str, interval: str, events: Iterable[Bar]) -> None:
    """Write bars to Cassandra with the write timestamp prescribed by the schema."""
    host, port = mesh.read(CassandraSettings).cassandra_addresses[0]
    cluster = Cluster(
        [host],
        port=port,
        ssl_context=mesh.tls(),
        auth_provider=CertificateAuthProvider(),
        protocol_version=5,
    )
    session = cluster.connect("coinmesh")
    statements: list[tuple[str, tuple[()]]] = []
    for row in map(bars.from_event, events):
        fields = ", ".join(
            f"{key}: {_literal(key, value)}"
            for key, value in zip(row._fields[1:], row[1:], strict=True)
        )
        statement = (
            f"INSERT INTO bars_{interval} (instrument, bucket, start_time, bar) VALUES "
            f"('{name}', {bucket(interval, row.start_ms)}, {row.start_ms}, {{{fields}}}) "
            f"USING TIMESTAMP {write_time(row.start_ms // 1000, row.layer, row.revision)}"
        )
        statements.append((statement, ()))
    execute_concurrent(session, statements, concurrency=32)
    cluster.shutdown()


def _literal(key: str, value: object) -> str:
    return f"'{value}'" if key == "run" else str(value).lower()


def start_gateway(mesh: TestMesh, command: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a query-gateway on a free port; return its process and its address."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment |= mesh.settings_of("query-gateway") | {
        "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
        # The access table allows consumer groups that begin with the service's name.
        "COINMESH_SERVICE_NAME": "query-gateway-bench",
        "COINMESH_COLLECTORS": "",
    }
    with log.open("ab") as output:
        process = subprocess.Popen([command], env=environment, stdout=output, stderr=output)

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        lines = log.read_text().splitlines()
        return next((json.loads(line)["grpc"] for line in lines if '"serving"' in line), None)

    return process, str(eventually(address, "the gateway listens"))
