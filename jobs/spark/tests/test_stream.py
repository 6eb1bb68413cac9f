"""The application on a real mesh: outages, restarts, the archive."""

import re
import urllib.request
from contextlib import contextmanager

import harness as h
import pyarrow.parquet as pq
import pytest
from markets import check_bars, market

from coinmesh_access.testing import free_port
from coinmesh_contracts import topics

pytestmark = [pytest.mark.component, pytest.mark.timeout(1800)]


def send(harness, rows):
    return harness.send([h.trade(harness.header, *row) for row in rows])


@pytest.mark.timeout(1800)
def test_outages_restarts_and_a_second_application_lose_nothing(harness):
    """What it needs is away while it runs: told by name, and all comes in the end."""
    port = free_port()
    first = market(harness, 1, 0)
    where = send(harness, first)
    quick = {"METRICS_LISTEN": f"127.0.0.1:{port}", "SCHEMA_REGISTRY_WAIT_SECONDS": "2"}
    with harness.running(**quick) as process:
        harness.until(harness.caught_up, process)
        second = harness.start("--only", "bars")
        assert second.wait(300) == 2
        assert "is in use by another coinmesh-spark" in harness.tail()

        # What is on the quotes' topic is no quote; the trade's schema is one that nobody knows.
        stranger = (f"{harness.venue}.X".encode(), b"\0" + (1 << 30).to_bytes(4) + b"\0")
        nonsense = (b"q", b"no quote")
        settings = harness.mesh.settings
        with away(harness, "registry", "seaweedfs"):
            unknown = harness.send([stranger])
            more = market(harness, 2, 130)
            where += send(harness, more)
            (bad_quote,) = harness.send([nonsense], topics.QUOTES.name)
            told(harness, process, "bars", settings["COINMESH_SCHEMA_REGISTRY_URL"])
            told(harness, process, "archive-market", settings["COINMESH_S3_ENDPOINT"])
            assert metric(harness, port, 'coinmesh_spark_query_up{query="bars"}') == 0
        with away(harness, "cassandra"):
            later = market(harness, 3, 260)
            where += send(harness, later)
            told(harness, process, "bars", settings["COINMESH_CASSANDRA_CONTACT_POINTS"])
        with away(harness, "kafka"):
            broker = settings["COINMESH_KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2]
            refused = re.compile(rf":{broker}\).* could not be established")
            harness.until(lambda: refused.search(harness.tail(10**7)), process)
        newest = market(harness, 4, 390)
        where += send(harness, newest)
        harness.until(harness.caught_up, process)
        harness.until(lambda: metric(harness, port, "coinmesh_spark_query_up") == 5, process)
        archived = (topics.TRADES.name, topics.QUOTES.name)
        harness.until(lambda: all(map(harness.archived_up_to, archived)), process)
    assert process.returncode == 0
    assert harness.dead_letters()[unknown[0]] == ("UNKNOWN_SCHEMA_ID", *stranger)
    assert harness.dead_letters_of(topics.QUOTES.name)[bad_quote][1:] == nonsense

    last = market(harness, 5, 520)
    where += send(harness, last + last[-20:])
    with harness.running("--only", "bars", METRICS_LISTEN=f"127.0.0.1:{port}") as process:
        harness.until(harness.caught_up, process)
        harness.until(lambda: metric(harness, port, "coinmesh_spark_lag_records") == 0, process)
        # The batch before may have been stopped short of Spark's commit and be run again.
        assert metric(harness, port, "coinmesh_spark_duplicate_trades_total") >= 20
        assert metric(harness, port, "coinmesh_spark_trades_total") >= len(last)
        assert metric(harness, port, "coinmesh_spark_snapshot_bytes") > 0
    check_bars(harness, first + more + later + newest + last + last[-20:], where)
    begins = harness.begins[topics.TRADES.name]
    for partition, objects in harness.archived(topics.TRADES.name).items():
        ends = [begins[partition], *(last + 1 for _, last, _ in objects)]
        assert [first for first, *_ in objects] == ends[:-1]


@contextmanager
def away(harness, *names):
    """Components that are stopped for a while."""
    components = [harness.mesh.component(name) for name in names]
    for component in components:
        component.stop()
    try:
        yield
    finally:
        for component in components:
            component.start()


def told(harness, process, query, address):
    """Wait until a query's failure names an address."""
    line = re.compile(rf"{query} failed, (restarting|retrying) in .* at {re.escape(address)}")
    harness.until(lambda: line.search(harness.tail(10**7)), process)


def metric(harness, port, name):
    """The sum of a metric's samples, None while there is none."""
    url = f"https://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, context=harness.mesh.tls()) as answer:
        lines = answer.read().decode().splitlines()
    prefix = name if "{" in name else name + "{"
    samples = [line for line in lines if line.startswith(prefix)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in samples) if samples else None


def test_archive_keeps_records_and_schemas_as_they_are(harness):
    rows = market(harness, 4, 0, count=500)
    records = [h.trade(harness.header, *row) for row in rows]
    records.append((f"{harness.venue}.BAD-USDT".encode(), b"\x09not a trade"))
    where = harness.send(records)
    with harness.running("--only", "archive", SPARK_ARCHIVE_MAX_BYTES=300_000) as process:
        harness.until(lambda: harness.archived_up_to(topics.TRADES.name), process)
    archived = harness.archived_records(topics.TRADES.name)
    by_offset = {key[1:]: record for key, record in archived.items()}
    for at, record in zip(where, records, strict=True):
        assert by_offset[at] == record
    schema_id = int.from_bytes(harness.header[1:5], "big")
    store = harness.store()
    expected = {schema_id, None}
    for objects in harness.archived(topics.TRADES.name).values():
        for *_, key in objects:
            table = pq.read_table(f"{harness.bucket}/{key}", filesystem=store, partitioning=None)
            assert set(table.column("schema_id").to_pylist()) <= expected
    with store.open_input_stream(f"{harness.bucket}/raw/_schemas/{schema_id}") as text:
        assert b"message Trade {" in text.read()


def test_archive_that_is_behind_does_not_wait_for_its_trigger(harness):
    """At one batch of 100 records an hour it would take thirty hours."""
    send(harness, market(harness, 1, 0, count=3_000))
    quick = {"SPARK_ARCHIVE_TRIGGER": 3600, "SPARK_ARCHIVE_MAX_OFFSETS": 100}

    def archived():
        objects = harness.archived(topics.TRADES.name).values()
        return sum(last + 1 - first for found in objects for first, last, _ in found)

    with harness.running("--only", "archive", **quick) as process:
        harness.until(lambda: archived() > 500, process)
