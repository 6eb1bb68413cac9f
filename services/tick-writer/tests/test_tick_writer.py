"""Trades of Kafka in Cassandra, on real components, through kills and outages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cassandra import DriverException
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.policies import ConstantReconnectionPolicy
from confluent_kafka import Producer

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_SELL, Trade
from coinmesh_contracts.serving import TRADE_SHARDS, bucket
from coinmesh_local.testing import TestMesh, eventually
from meshkit.cassandra import CertificateAuthProvider
from meshkit.kafka import client_config
from meshkit.registry import Registry
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings

pytestmark = pytest.mark.component
TIME_US = 1_723_075_200_000_000


def trade(trade_id: int, instrument: str, **fields: Any) -> Trade:
    values = {
        "event_time": TIME_US + trade_id * 500,
        "receive_time": 5,
        "price_units": 60_000_00000000 + trade_id,
        "size_units": 150_000_000,
        **fields,
    }
    return Trade(
        event_id=f"{instrument}:trade:{trade_id}",
        source="binance",
        type=EVENT_TYPE_TRADE,
        instrument=instrument,
        trade_id=trade_id,
        price_exponent=-8,
        size_exponent=-8,
        taker_side=TAKER_SIDE_SELL,
        **values,
    )


class Stores:
    """Kafka's topic of trades and Cassandra's table."""

    def __init__(self, mesh: TestMesh) -> None:
        config = client_config(mesh.read(KafkaSettings), "feeder")
        self._producer = Producer(config | {"partitioner": "murmur2_random"})
        registry = Registry(mesh.read(RegistrySettings))
        messages = {topics.TRADES.name: Trade}
        self._header = framing.header(registry.resolve_now(messages).ids[topics.TRADES.name])
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

    def send(self, *trades: Trade, key: bytes | None = None) -> None:
        """Append trades; return when Kafka has them."""
        failed: list[Any] = []
        for event in trades:
            self._producer.produce(
                topics.TRADES.name,
                self._header + event.SerializeToString(),
                key or event.instrument.encode(),
                on_delivery=lambda error, _: error and failed.append(error),
            )
        assert self._producer.flush(60) == 0
        assert not failed

    def garbage(self, key: bytes, value: bytes) -> None:
        """Append a record that is no event."""
        self._producer.produce(topics.TRADES.name, value, key)
        assert self._producer.flush(60) == 0

    def stored(self, instrument: str) -> dict[int, Any]:
        """The rows of an instrument's first hour by trade id."""
        start = bucket("1s", TIME_US // 1_000_000) * 1000
        try:
            rows = self._session.execute(
                "SELECT trade_id, price, size, taker_side, event_time_us, receive_time_ns, "
                f"writetime(price) AS written FROM trades WHERE instrument = '{instrument}' "
                f"AND bucket = {start} AND shard IN ({', '.join(map(str, range(TRADE_SHARDS)))})"
            )
        except (NoHostAvailable, DriverException):  # it is down or starts
            return {}
        return {row.trade_id: row for row in rows}

    def hours(self, instrument: str) -> list[int]:
        """The hours of an instrument that are indexed, seconds since the Unix epoch."""
        rows = self._session.execute(
            "SELECT to_unix_timestamp(hour) AS hour FROM trade_hours "
            f"WHERE instrument = '{instrument}'"
        )
        return [row.hour // 1000 for row in rows]

    def await_ids(self, instrument: str, ids: set[int]) -> None:
        """Wait until exactly these trades are stored."""
        eventually(lambda: set(self.stored(instrument)) == ids, f"{len(ids)} trades are stored")

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def stores(mesh: TestMesh) -> Iterator[Stores]:
    mesh.require("tick-writer")
    stores = Stores(mesh)
    yield stores
    stores.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    symbol = request.node.name.removeprefix("test_").upper().replace("_", "")
    return f"binance.{symbol}-USDT"


def test_stored_trade_has_exact_values_and_write_time(stores: Stores, name: str) -> None:
    stores.send(trade(7, name))
    stores.await_ids(name, {7})
    row = stores.stored(name)[7]
    assert (str(row.price), str(row.size)) == ("60000.00000007", "1.50000000")
    assert row.taker_side == TAKER_SIDE_SELL
    assert row.event_time_us == row.written == TIME_US + 3500
    assert row.receive_time_ns == 5
    # A repeated record changes nothing.
    stores.send(trade(7, name, receive_time=6), trade(8, name))
    stores.await_ids(name, {7, 8})
    assert stores.hours(name) == [bucket("1s", TIME_US // 1_000_000)]


def test_invalid_records_are_skipped(stores: Stores, name: str) -> None:
    for value in (b"", b"{}", b"\x00\x7f\xff\xff\xff\x00abc"):
        stores.garbage(name.encode(), value)
    stores.send(trade(1, name), trade(2, name, price_units=0), trade(0, name))
    stores.send(trade(3, name), key=b"binance.OTHER-USDT")
    stores.send(trade(4, name))
    stores.await_ids(name, {1, 4})


def test_killed_writer_loses_nothing(mesh: TestMesh, stores: Stores, name: str) -> None:
    total = 20_000
    for first in range(1, total, 2000):
        stores.send(*(trade(number, name) for number in range(first, first + 2000)))
        if first == 4001:
            eventually(lambda: stores.stored(name), "storing has begun")
            mesh.component("tick-writer").kill()
    stores.await_ids(name, set(range(1, total + 1)))


def test_cassandra_outage_neither_loses_nor_stops(
    mesh: TestMesh, stores: Stores, name: str
) -> None:
    writer = mesh.component("tick-writer")
    writer.wait_ready()
    pids, logged = writer.pids(), len(writer.log())
    cassandra = mesh.component("cassandra")
    cassandra.stop()
    stores.send(*(trade(number, name) for number in range(1, 3001)))
    eventually(lambda: "not ready: TickWriter" in writer.log()[logged:], "it isn't ready")
    cassandra.start()
    stores.await_ids(name, set(range(1, 3001)))
    assert writer.pids() == pids
