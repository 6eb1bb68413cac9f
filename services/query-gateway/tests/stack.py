"""A gateway process on real components, and what feeds them: events and rows as the mesh's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.policies import ConstantReconnectionPolicy
from confluent_kafka import Producer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from market_data import liveness
from redis import Redis

from coinmesh_contracts import framing, topics
from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.market_service_pb2_grpc import MarketServiceStub
from coinmesh_contracts.query.v1.collector_directory_service_pb2_grpc import (
    CollectorDirectoryServiceStub,
)
from coinmesh_contracts.query.v1.event_service_pb2_grpc import EventServiceStub
from coinmesh_contracts.serving import trade_partition, write_time
from coinmesh_local.testing import TestMesh, eventually
from meshkit.authz import User, stated
from meshkit.cassandra import CertificateAuthProvider
from meshkit.kafka import client_config
from meshkit.redis_options import redis_options
from meshkit.registry import Registry
from meshkit.settings import CassandraSettings, KafkaSettings, RedisSettings, RegistrySettings
from query_gateway.bars import BarRow
from query_gateway.intervals import bucket
from query_gateway.trades import TradeRow

COMPONENTS = ("topics", "schemas", "cassandra-access", "kafka-access", "redis")
_TOPICS = {topic.message: topic for topic in topics.ALL if topic.message is not None}


_ADMIN = stated(User("test", ("admin",), "free"))


class _AsAdmin(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Says of each call what Envoy says of a user's."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._said(details), request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._said(details), request)

    @staticmethod
    def _said(details: Any) -> Any:
        metadata = [*(details.metadata or ()), *_ADMIN]
        return _Details(details.method, details.timeout, metadata, details.credentials)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: list[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None = None
    compression: Any = None


class Gateway:
    """One gateway process."""

    def __init__(self, mesh: TestMesh, directory: Path, name: str, **settings: str) -> None:
        self._log = directory / f"{name}.log"
        environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment |= mesh.settings_of("query-gateway") | {
            "COINMESH_GRPC_LISTEN": "127.0.0.1:0",
            # Its consumer groups begin with the service's name, as the access table has it.
            "COINMESH_SERVICE_NAME": f"query-gateway-{name}",
            "COINMESH_COLLECTORS": "",
            "COINMESH_DRAIN_GRACE_SECONDS": "1",
            **{f"COINMESH_{key.upper()}": value for key, value in settings.items()},
        }
        with self._log.open("ab") as log:
            command = [str(Path(sys.executable).with_name("query-gateway"))]
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.address = str(eventually(self._serving, f"{name} listens:\n{self.log()}"))
        # As Envoy comes, for a user who may do everything.
        self._channel = grpc.intercept_channel(
            grpc.secure_channel(self.address, mesh.grpc_credentials("envoy")), _AsAdmin()
        )
        self.market = MarketServiceStub(self._channel)
        self.events = EventServiceStub(self._channel)
        self.collectors = CollectorDirectoryServiceStub(self._channel)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def wait_ready(self) -> Gateway:
        """Returns when its health says SERVING."""
        eventually(self.is_serving, f"the gateway is ready:\n{self.log()}")
        return self

    def is_serving(self) -> bool:
        """What its health says."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text() if self._log.exists() else ""

    def terminate(self) -> None:
        """Asks it to end in order."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ends it in order; its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._channel.close()
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(120)

    def _serving(self) -> str | None:
        assert self._process.poll() is None, self.log()
        for line in reversed(self.log().splitlines()):
            if '"serving"' in line:
                return json.loads(line)["grpc"]
        return None


class Feeder:
    """Writes to Kafka as collectors and the Spark job do, to Cassandra as the Spark job does."""

    def __init__(self, mesh: TestMesh) -> None:
        self._producer = Producer(
            client_config(mesh.read(KafkaSettings), "feeder")
            | {
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "log_level": 0,  # brokers are stopped on purpose
            }
        )
        registry = Registry(mesh.read(RegistrySettings))
        messages = {topic.name: message for message, topic in _TOPICS.items()}
        self._ids = registry.resolve_now(messages)
        registry.close()
        host, port = mesh.read(CassandraSettings).cassandra_addresses[0]
        self._cluster = Cluster(
            [host],
            port=port,
            ssl_context=mesh.tls(),
            auth_provider=CertificateAuthProvider(),
            protocol_version=5,
            reconnection_policy=ConstantReconnectionPolicy(0.5, None),  # type: ignore[arg-type]
        )
        self._session = self._cluster.connect("coinmesh")

    def framed(self, event: Message) -> bytes:
        """An event as a record's value."""
        return framing.header(self._ids.ids[_TOPICS[type(event)].name]) + event.SerializeToString()

    def send(self, *events: Message) -> None:
        """Puts events on their topics; returns when Kafka has them."""
        failed: list[Any] = []
        for event in events:
            topic = _TOPICS[type(event)].name
            value, key = self.framed(event), event.instrument.encode()  # type: ignore[attr-defined]
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, on_delivery=lambda e, _: e and failed.append(e)
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(60) == 0
        assert not failed

    def raw(self, topic: str, key: bytes, value: bytes) -> None:
        """Puts any bytes on a topic."""
        self._producer.produce(topic, value, key)
        assert self._producer.flush(60) == 0

    def _store(self, statement: str) -> None:
        """Executes a statement that may be repeated, also while the database comes back."""

        def stored() -> bool:
            try:
                self._session.execute(statement)
            except NoHostAvailable:
                return False
            return True

        eventually(stored, "Cassandra takes a write")

    def store_bars(self, name: str, interval: str, rows: Iterable[BarRow]) -> None:
        """Stores bars under the write timestamp that the schema prescribes."""
        for row in rows:
            fields = dict(zip(row._fields[1:], row[1:], strict=True))
            text = ", ".join(f"{key}: {_literal(key, value)}" for key, value in fields.items())
            stamp = write_time(row.start_ms // 1000, row.layer, row.revision)
            start = bucket(interval, row.start_ms)
            self._store(
                f"INSERT INTO bars_{interval} (instrument, bucket, start_time, bar) "
                f"VALUES ('{name}', {start}, {row.start_ms}, {{{text}}}) USING TIMESTAMP {stamp}"
            )

    def store_trades(self, name: str, rows: Iterable[TradeRow]) -> None:
        """Stores trades as tick-writer does."""
        for row in rows:
            hour, shard = trade_partition(row.time_us, row.trade_id)
            self._store(
                f"INSERT INTO trade_hours (instrument, hour) VALUES ('{name}', {hour * 1000})"
            )
            side = {"buy": 1, "sell": 2}.get(row.taker_side, 0)
            self._store(
                "INSERT INTO trades (instrument, bucket, shard, event_time, trade_id, price, size, "
                "taker_side, event_time_us, receive_time_ns) VALUES "
                f"('{name}', {hour * 1000}, {shard}, {row.time_ms}, {row.trade_id}, "
                f"{row.price}, {row.size}, {side}, {row.time_us}, {row.receive_time_ns}) "
                f"USING TIMESTAMP {row.time_us}"
            )

    def store_indicators(
        self, name: str, interval: str, start_ms: int, outputs: dict[str, str], revision: int
    ) -> None:
        """Stores a bar's indicators."""
        values = ", ".join(f"'{key}': {value}" for key, value in outputs.items())
        self._store(
            f"INSERT INTO indicators_{interval} (instrument, bucket, start_time, indicators) "
            f"VALUES ('{name}', {bucket(interval, start_ms)}, {start_ms}, "
            f"{{outputs: {{{values}}}, revision: {revision}, layer: 0, run: 'r'}}) "
            f"USING TIMESTAMP {write_time(start_ms // 1000, 0, revision)}"
        )

    def close(self) -> None:
        """Closes the connections."""
        del self._producer
        self._cluster.shutdown()


class Collector:
    """Publishes a sign of life twice a second for the instruments that it covers, as a collector.

    Attributes:
        instruments: The instruments; all their channels are live.
        is_down: Set to publish nothing.
    """

    def __init__(self, mesh: TestMesh, feeder: Feeder) -> None:
        self.instruments: set[str] = set()
        self.is_down = threading.Event()
        self._feeder = feeder
        config = client_config(mesh.read(KafkaSettings), "collector")
        # What can't be sent in time says nothing any more.
        self._producer = Producer(config | {"message.timeout.ms": 2000, "log_level": 0})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.5):
            if not self.is_down.is_set():
                names = sorted(self.instruments)
                event = liveness(time.time_ns(), trade=names, quote=names, book=names)
                topic = topics.LIVENESS.name
                self._producer.produce(topic, self._feeder.framed(event), event.collector.encode())
            self._producer.poll(0)

    def close(self) -> None:
        """Stop publishing."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(5)


def redis_client(mesh: TestMesh) -> Redis:
    """A client that may do everything."""
    settings = mesh.read(RedisSettings)
    return Redis.from_url(settings.redis_url, **redis_options(settings))


def _literal(key: str, value: object) -> str:
    return f"'{value}'" if key == "run" else str(value).lower()


def failure(call: Any) -> tuple[str, str, float | None]:
    """The status code, reason and retry delay of a call that must fail."""

    def first() -> None:
        answer = call()
        if hasattr(answer, "__next__"):
            next(answer)

    with pytest.raises(grpc.RpcError) as caught:
        first()
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    reason, delay = "", None
    for detail in status.details:
        if detail.Unpack(info):
            assert info.domain == "coinmesh"
            reason = info.reason
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToNanoseconds() / 1e9
    return error.code().name, reason, delay


MINUTE_MS = 60_000
#: Midnight of today.
NOW_MS = int(time.time() * 1000) // 86_400_000 * 86_400_000


def wait(call: Callable[[], Any], until: Callable[[Any], bool] = lambda _: True) -> Any:
    """The first answer of a call that satisfies `until`; failures before it are waited out."""
    last: list[Any] = [None]

    def check() -> bool:
        try:
            last[0] = call()
        except (Exception, pytest.fail.Exception) as error:
            last[0] = error
            return False
        return until(last[0])

    try:
        eventually(check, "the answer comes")
    except AssertionError:
        raise AssertionError(f"last answer: {last[0]}") from None
    return last[0]


def stamp(ms: int) -> Timestamp:
    """Milliseconds as a timestamp."""
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def list_bars(gateway: Gateway, name: str, **more: Any) -> api.ListBarsResponse:
    """A page of an instrument's bars."""
    return gateway.market.ListBars(
        api.ListBarsRequest(instrument=name, interval=more.pop("interval", "1m"), **more)
    )
