"""What is written: CQL values against the driver's own reader, buckets, timestamps, events."""

from datetime import UTC, datetime
from decimal import Decimal, localcontext

import pytest
from cassandra.cqltypes import DecimalType, MapType, UTF8Type
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from coinmesh_contracts import cql, serving
from coinmesh_contracts.events.v1.bar_pb2 import Bar as BarEvent
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_spark import indicators
from coinmesh_spark.bars import Bar
from coinmesh_spark.fold import ChangedBar, ChangedIndicators
from coinmesh_spark.sinks import rows
from coinmesh_spark.sinks.cassandra import BATCH_ROWS, CassandraSink
from meshkit.settings import CassandraSettings

START = 1_723_075_260
BAR = Bar(START, 6_123_000_000_000, 6_124, 6_122, 6_123, 300, 900, 100, 400, 3, 7, 9)


@example(10**28, 0)
@example(10**28 + 1, -8)
@given(st.integers(-(2**130), 2**130), st.integers(-20, 20))
def test_a_decimal_reads_back_exactly(units, exponent):
    data = cql.decimal(units, exponent)
    with localcontext(prec=60):
        value = DecimalType.deserialize(data, 5)
        assert value == Decimal(units).scaleb(exponent)
        assert value.as_tuple().exponent == exponent
        assert data == DecimalType.serialize(Decimal(units).scaleb(exponent), 5)


def test_a_map_reads_back():
    data = cql.text_map({"sma/20/": cql.decimal(5, -12), "ema/20/": cql.decimal(-7, -12)})
    kind = MapType.apply_parameters([UTF8Type, DecimalType])
    assert dict(kind.deserialize(data, 5)) == {
        "ema/20/": Decimal("-7E-12"),
        "sma/20/": Decimal("5E-12"),
    }


@pytest.mark.parametrize(
    ("interval", "moment", "bucket"),
    [
        ("1s", "2024-08-08T13:59:59", "2024-08-08T13:00:00"),
        ("1m", "2024-08-08T13:59:00", "2024-08-08T00:00:00"),
        ("5m", "2024-08-08T13:55:00", "2024-08-05T00:00:00"),
        ("5m", "2024-09-01T00:00:00", "2024-08-26T00:00:00"),
        ("1h", "2024-08-31T23:00:00", "2024-08-01T00:00:00"),
        ("1d", "2024-02-29T00:00:00", "2024-01-01T00:00:00"),
    ],
)
def test_buckets(interval, moment, bucket):
    def seconds(text):
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())

    assert serving.bucket(interval, seconds(moment)) == seconds(bucket)


def test_a_row_is_stamped_by_its_content():
    open_bar = rows.bar_row(ChangedBar("sim.A", -8, -8, "1m", BAR, False), b"run")
    final_bar = rows.bar_row(ChangedBar("sim.A", -8, -8, "1m", BAR, True), b"run")
    assert open_bar.table == "bars_1m"
    assert open_bar.timestamp == START * 1_000_000 + 6
    assert final_bar.timestamp == open_bar.timestamp + 1
    assert final_bar.partition == open_bar.partition


def test_a_bar_event_prints_its_decimals_in_full():
    changed = ChangedBar("sim.A", -8, -4, "1m", BAR, True)
    event = BarEvent.FromString(rows.bar_event(changed, "run", 5))
    assert event.event_id == f"sim.A:bar:60:{START}:0:7"
    assert event.volume == "0.0300"
    assert event.quote_volume == "0.000000000900"
    assert event.vwap == "0.0000000300000000"
    assert event.event_time == START * 1_000_000
    assert (event.revision, event.final, event.layer) == (7, True, 0)


def test_indicator_events_share_what_is_common():
    values = {indicators.SMA_OUTPUT: 1_500_000_000_000, indicators.UPPER_OUTPUT: -1}
    changed = ChangedIndicators("sim.A", "1s", START, values, 42)
    sma, upper = (IndicatorValue.FromString(e) for e in rows.indicator_events(changed, "run", 5))
    assert (sma.indicator, sma.period, sma.output, sma.value) == ("sma", 20, "", "1.500000000000")
    assert upper.value == "-0.000000000001"
    assert upper.event_id == f"sim.A:indicator:1:{START}:bollinger:20:upper:0:42"
    assert upper.instrument == sma.instrument == "sim.A"
    assert upper.revision == 42


class ObservedSink(CassandraSink):
    """Notes after each round of writes what a reader sees then."""

    def __init__(self, settings, read):
        super().__init__(settings)
        self.read, self.seen = read, []

    def _execute(self, pending):
        super()._execute(pending)
        self.seen.append(self.read())


@pytest.mark.component
def test_bar_becomes_readable_after_all_before_it(harness):
    """A catch-up batch of three hours, read while it is written: always a beginning of it."""
    name = f"{harness.venue}.ORDER-USDT"
    starts = [
        START - START % 3600 + 3600 * hour + second for hour in range(3) for second in range(600)
    ]
    written = [
        rows.bar_row(ChangedBar(name, -8, -8, "1s", replace(BAR, start=start), True), b"run")
        for start in starts
    ]
    buckets = sorted({serving.bucket("1s", start) for start in starts})
    with harness.cassandra() as session:
        query = session.prepare(
            "SELECT start_time FROM bars_1s WHERE instrument = ? AND bucket = ?"
        )

        def read():
            times = [
                row.start_time.replace(tzinfo=UTC).timestamp()
                for bucket in buckets
                for row in session.execute(query, (name, datetime.fromtimestamp(bucket, UTC)))
            ]
            return sorted(map(round, times))

        sink = ObservedSink(harness.mesh.read(CassandraSettings, "spark-stream"), read)
        assert sink.write(written) == len(starts)
        sink.close()
    assert len(sink.seen) == len(starts) // BATCH_ROWS
    for seen in sink.seen:
        assert seen == starts[: len(seen)]
    assert [len(seen) for seen in sink.seen] == sorted({len(seen) for seen in sink.seen})


@pytest.mark.component
def test_batch_is_routed_to_a_replica_of_its_partition(harness):
    sink = CassandraSink(harness.mesh.read(CassandraSettings, "spark-stream"))
    bars = [replace(BAR, start=START + 60 * at) for at in range(2)]
    written = [rows.bar_row(ChangedBar("sim.A", -8, -8, "1m", bar, True), b"run") for bar in bars]
    ((_, _, batch),) = sink._statements(written)
    replicas = sink._cluster.metadata.get_replicas(batch.keyspace, batch.routing_key)
    sink.close()
    assert replicas


@pytest.mark.component
def test_rows_of_a_second_are_on_disk_for_eight_days_at_most(harness):
    query = (
        "SELECT table_name, default_time_to_live, gc_grace_seconds FROM system_schema.tables"
        " WHERE keyspace_name = 'coinmesh'"
    )
    with harness.cassandra() as session:
        kept = {row[0]: row[1] + row[2] for row in session.execute(query)}
    assert {kept[f"{table}_1s"] for table in ("bars", "indicators")} == {8 * 86_400}
