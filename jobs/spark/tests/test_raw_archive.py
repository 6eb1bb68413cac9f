"""The archive on real components: crashes, size limits, lost records, incarnations, compaction."""

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import harness as h
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from markets import market
from test_stream import send

from coinmesh_archive.manifest import COMPACTED, CONTROL
from coinmesh_archive.objects import build
from coinmesh_archive.reader import read_day, read_object
from coinmesh_archive.store import ManifestChanged, manifest_key
from coinmesh_archive.topic_log import TopicLogs
from coinmesh_contracts import topics
from coinmesh_spark.archive_ledger import Ledger

pytestmark = [pytest.mark.component, pytest.mark.timeout(1800)]
COINMESH = str(Path(sys.executable).parent / "coinmesh")
TRADES, QUOTES, BLOCKS = topics.TRADES.name, topics.QUOTES.name, topics.BLOCKS.name
INSTRUMENTS = topics.INSTRUMENTS.name


@pytest.fixture
def harness(spark_mesh, tmp_path):
    """The archive doesn't need Cassandra."""
    return h.Harness(spark_mesh, tmp_path)


def produced(harness, topic):
    """Kafka's records as `Harness.archived_records` returns them, without the topic's id."""
    return {(p, offset): (key, value) for p, offset, key, value in harness.read(topic)}


def archived(harness, topic):
    """As `produced`, from the archive; whose manifests have no fault."""
    for manifest in harness.manifests(topic):
        assert manifest.faults() == []
    return {key[1:]: record for key, record in harness.archived_records(topic).items()}


def whole(harness, topic):
    """Kafka's and the archive's records with all their fields, by partition and offset."""
    produced = {
        (m.partition(), m.offset()): (
            m.key(),
            m.value(),
            m.headers() or [],
            m.timestamp(),
            int.from_bytes(m.value()[1:5], "big"),
        )
        for m in harness.messages(topic)
    }
    archived = {}
    for date in harness.archive.dates(topic):
        for _, table in read_day(harness.archive, topic, date):
            for row in table.to_pylist():
                headers = [(one["key"], one["value"]) for one in row["headers"] or ()]
                appended = row["timestampType"], round(row["timestamp"].timestamp() * 1000)
                archived[row["partition"], row["offset"]] = (
                    row["key"],
                    row["value"],
                    headers,
                    # The client counts the types from 1, Spark from 0.
                    (appended[0] + 1, appended[1]),
                    row["schema_id"],
                )
    return produced, archived


def coinmesh(harness, *arguments):
    """Output of the operator's command, on this test's bucket."""
    settings = {
        name: value
        for name, value in harness.mesh.settings.items()
        if name.startswith("COINMESH_S3_")
    }
    done = subprocess.run(
        [COINMESH, *arguments],
        env=settings
        | {
            "COINMESH_HOME": str(harness.mesh.home.root),
            "COINMESH_S3_BUCKET": harness.bucket,
            "PATH": "/usr/bin:/bin",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def skip(harness, topic, *options):
    """Record the loss of a topic's records as an operator does."""
    return coinmesh(harness, "raw", "skip", topic, "--reason", "disk lost", "--yes", *options)


def test_kills_and_changed_size_limits_lose_and_repeat_nothing(harness):
    rng = random.Random(14)
    # A worker that dies fails its batch, which the same driver repeats.
    rounds = [
        [f"archived:{rng.randrange(2)}:worker", f"collected:{rng.randrange(2, 4)}:driver"],
        [f"listed:{rng.randrange(3)}:jvm"],
        [f"retired:{rng.randrange(3)}:driver"],
    ]
    struck = harness.directory / "struck"
    struck.mkdir()
    for number, strikes in enumerate(rounds):
        rows = market(harness, number + 1, 100 * number, count=300)
        headers = [("round", b"%d" % number), ("empty", b""), ("round", b"again"), ("none", None)]
        harness.send([h.trade(harness.header, *row) for row in rows], headers=headers)
        process = harness.start(
            "--only",
            "archive",
            SPARK_FAILPOINTS=",".join(strikes),
            SPARK_FAILPOINT_DIR=struck,
            SPARK_ARCHIVE_MAX_OFFSETS=rng.choice((70, 150)),
            SPARK_ARCHIVE_MAX_BYTES=(4_000, 1 << 20, 20_000)[number],
            SPARK_ARCHIVE_TRIGGER=0.5,
        )
        try:
            harness.until(lambda: process.poll() is not None)  # noqa: B023
        finally:
            h.end_group(process)
    assert len(list(struck.iterdir())) == sum(map(len, rounds))
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(TRADES), process)
    in_kafka, in_archive = whole(harness, TRADES)
    assert in_kafka
    assert in_archive == in_kafka
    listed = {key for parts in harness.archived(TRADES).values() for *_, key in parts}
    stored = {key for key, _ in harness.archive.objects(TRADES)}
    assert listed <= stored


def test_day_is_sealed_after_midnight_and_a_second_writer_rejected(harness):
    harness.send([(b"sim.A-USDT", b"quote")] * 5, QUOTES)
    logs, now = TopicLogs(AdminClient(harness.kafka)), datetime.now(UTC)
    log = logs.read([QUOTES])[QUOTES]
    first, second = Ledger(harness.archive, QUOTES), Ledger(harness.archive, QUOTES)
    planned, over = first.ranges(logs, log, now)
    assert not over
    ranges = {number: part for (_, number), part in planned.items()}
    assert first.commit(ranges, []) == []
    second.open(logs, log, now)
    # An hour after midnight Kafka has no record of the new day.
    tomorrow = (now + timedelta(days=1)).replace(hour=1)
    assert first.ranges(logs, log, tomorrow) == ({}, True)
    first.roll()
    for change in (lambda: second.commit({}, []), second.roll):
        with pytest.raises(ManifestChanged):
            change()
        second.open(logs, log, now)
        second._etag = "outdated"
    assert first.ranges(logs, log, tomorrow) == ({}, False)
    sealed, opened = harness.manifests(QUOTES)
    assert (sealed.date, sealed.sealed) == (now.date().isoformat(), True)
    assert (opened.date, opened.sealed) == (tomorrow.date().isoformat(), False)
    for number, part in sealed.current.partitions.items():
        following = opened.current.partitions[number]
        assert following.first == following.next == part.next == log.bounds[number][1]
    assert Ledger(harness.archive, QUOTES).open(logs, log, tomorrow) == opened


def test_first_manifest_is_of_the_day_of_the_first_record(harness):
    harness.send([(b"sim.A-USDT", b"quote")], QUOTES)
    logs, now = TopicLogs(AdminClient(harness.kafka)), datetime.now(UTC)
    log = logs.read([QUOTES])[QUOTES]
    later = Ledger(harness.archive, QUOTES).open(logs, log, now + timedelta(days=3))
    assert later.date == now.date().isoformat()


def unlisted(harness, topic, day, hour, offsets, appended_us):
    """Write an object as an archive without manifests named it."""
    table = pa.table(
        {
            "partition": pa.array([0] * len(offsets), pa.int32()),
            "offset": pa.array(offsets, pa.int64()),
            "timestamp": pa.array(
                [appended_us + 1000 * at for at in range(len(offsets))], pa.timestamp("us", "UTC")
            ),
            "timestampType": pa.array([1] * len(offsets), pa.int32()),
            "key": pa.array([b"k"] * len(offsets), pa.binary()),
            "value": pa.array([b"%d" % at for at in offsets], pa.binary()),
            "schema_id": pa.array([None] * len(offsets), pa.int32()),
        }
    )
    item, data = build(topic, table, {})
    name = f"0-{item.first:020d}-{item.last:020d}.parquet"
    harness.archive.write(f"raw/{topic}/date={day}/hour={hour:02d}/{name}", data)


def test_index_lists_overlapping_objects_once_and_names_gaps(harness):
    day = 1_723_075_200_000_000
    for topic in (BLOCKS, INSTRUMENTS):
        unlisted(harness, topic, "2024-08-08", 1, range(3, 9), day)
        unlisted(harness, topic, "2024-08-08", 1, range(3, 6), day)
        unlisted(harness, topic, "2024-08-08", 2, range(7, 12), day + 4000)
        unlisted(harness, topic, "2024-08-09", 0, range(14, 20), day + 86_400_000_000)
        # The topic was created again.
        unlisted(harness, topic, "2024-08-09", 5, range(4), day + 90_000_000_000)
    with harness.running("--only", "archive") as process:
        harness.until(lambda: "run `coinmesh raw index` once" in harness.tail(), process)
    assert f"{BLOCKS} 2024-08-09: 4 records" in coinmesh(
        harness, "raw", "index", BLOCKS, INSTRUMENTS
    )
    assert "4 days: no faults" in coinmesh(
        harness, "raw", "verify", BLOCKS, INSTRUMENTS, "--objects"
    )
    for topic in (BLOCKS, INSTRUMENTS):
        first, second = harness.manifests(topic)
        assert (first.date, first.sealed) == ("2024-08-08", True)
        assert (second.date, second.sealed) == ("2024-08-09", False)
        records = harness.archived_records(topic)
        old = {offset for topic_id, _, offset in records if topic_id == "unknown-0"}
        new = {offset for topic_id, _, offset in records if topic_id != "unknown-0"}
        assert (old, new) == ({*range(3, 12), *range(14, 20)}, set(range(4)))
        part = second.incarnations[0].partitions[0]
        gaps = part.absent if topic == INSTRUMENTS else part.skipped
        assert [(gap.first, gap.last) for gap in gaps] == [(12, 13)]


def test_archive_continues_after_index_of_objects_without_manifests(harness):
    records, headers = [(b"eth", harness.header + b"%d" % n) for n in range(18)], [("none", None)]
    harness.send(records[:9], BLOCKS, headers)
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(BLOCKS), process)
    store, (manifest,) = harness.archive, harness.manifests(BLOCKS)
    (item,) = manifest.current.partitions[0].objects
    table = read_object(store, item)
    # As an archive without manifests left it: a repeated batch was split differently.
    store.delete([item.key, manifest_key(BLOCKS, manifest.date)])
    for part in (table.slice(0, 5), table.slice(0, 3), table.slice(3)):
        one, data = build(BLOCKS, part, {})
        store.write(f"{one.key.rpartition('-')[0]}.parquet", data)
    assert ": 9 records" in coinmesh(harness, "raw", "index", BLOCKS)
    (indexed,) = harness.manifests(BLOCKS)
    before = {one.key for one in indexed.current.partitions[0].objects}
    harness.send(records[9:], BLOCKS, headers)
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(BLOCKS), process)
    (part,) = harness.manifests(BLOCKS)[-1].current.partitions.values()
    assert not before & {one.key for one in part.objects}
    in_kafka, in_archive = whole(harness, BLOCKS)
    assert len(in_archive) == len(records)
    assert in_archive == in_kafka
    assert "1 days: no faults" in coinmesh(harness, "raw", "verify", BLOCKS, "--objects")


def test_small_slices_become_few_objects(harness):
    with harness.running("--only", "archive", SPARK_ARCHIVE_TRIGGER=0.5) as process:
        for number in range(8):
            send(harness, market(harness, number + 1, 100 * number, count=40))
            harness.until(lambda: harness.archived_up_to(TRADES), process)
    for objects in harness.archived(TRADES).values():
        assert len(objects) <= 4
    assert archived(harness, TRADES) == produced(harness, TRADES)
    listed = {key for parts in harness.archived(TRADES).values() for *_, key in parts}
    assert {key for key, _ in harness.archive.objects(TRADES)} == listed


def test_lost_records_stop_their_topic_until_they_are_skipped(harness):
    send(harness, market(harness, 1, 0, count=50))
    quote = [(b"sim.A-USDT", b"no quote")]
    harness.send(quote * 5, QUOTES)
    with harness.running("--only", "archive") as process:
        harness.until(
            lambda: harness.archived_up_to(TRADES) and harness.archived_up_to(QUOTES), process
        )
    before = archived(harness, QUOTES)
    ((partition, position),) = {
        (p, end) for p, end in harness.ends(QUOTES).items() if (p, end - 1) in before
    }
    harness.send(quote * 7, QUOTES)
    harness.delete_records({QUOTES: {partition: position + 4}})
    send(harness, market(harness, 2, 100, count=50))
    with harness.running("--only", "archive") as process:
        message = f"deleted offsets {position} to {position + 3} of partition {partition}"
        harness.until(lambda: message in harness.tail(), process)
        harness.until(lambda: harness.archived_up_to(TRADES), process)
        assert archived(harness, QUOTES) == before
        assert f"offsets {position} to {position + 3}" in skip(harness, QUOTES)
        harness.until(lambda: harness.archived_up_to(QUOTES), process)
    part = harness.manifests(QUOTES)[-1].current.partitions[partition]
    (gap,) = part.skipped
    assert (gap.first, gap.last, gap.reason) == (position, position + 3, "disk lost")
    assert gap.actor.startswith("os:")
    after = archived(harness, QUOTES)
    assert after.keys() - before.keys() == {(partition, position + n) for n in (4, 5, 6)}


def test_given_range_is_skipped_and_records_after_it_are_archived(harness):
    quote = [(b"sim.A-USDT", b"no quote")]
    harness.send(quote * 5, QUOTES)
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(QUOTES), process)
    where = harness.send(quote * 7, QUOTES)
    (partition, first), (_, until) = where[0], where[3]
    lines = skip(harness, QUOTES, "--partition", str(partition), "--until", str(until))
    assert f"partition {partition}: offsets {first} to {until - 1}\n" in lines
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(QUOTES), process)
    parts = harness.manifests(QUOTES)[-1].current.partitions
    skipped = [(n, gap.first, gap.last) for n, part in parts.items() for gap in part.skipped]
    assert skipped == [(partition, first, until - 1)]
    in_kafka = produced(harness, QUOTES).items()
    assert archived(harness, QUOTES) == {at: one for at, one in in_kafka if at not in where[:3]}


def test_topic_created_again_keeps_both_incarnations(harness):
    admin = AdminClient(harness.kafka)
    first = harness.send([(b"eth", b"old %d" % n) for n in range(5)], BLOCKS)
    with harness.running("--only", "archive") as process:
        harness.until(lambda: harness.archived_up_to(BLOCKS), process)
        (old,) = {topic_id for topic_id, *_ in harness.archived_records(BLOCKS)}
        admin.delete_topics([BLOCKS])[BLOCKS].result(30)
        harness.until(lambda: BLOCKS not in admin.list_topics(timeout=10).topics, process)
        new_topic = NewTopic(BLOCKS, 1, config=topics.BLOCKS.config)
        harness.until(lambda: created(admin, new_topic), process)
        harness.begins[BLOCKS] = {}
        harness.until(lambda: "was deleted and created again" in harness.tail(), process)
        second = harness.send([(b"eth", b"new %d" % n) for n in range(9)], BLOCKS)
        skip(harness, BLOCKS)
        harness.until(lambda: harness.archived_up_to(BLOCKS), process)
    records = harness.archived_records(BLOCKS)
    own = {(p, o): record for (topic_id, p, o), record in records.items() if topic_id == old}
    others = {(p, o): record for (topic_id, p, o), record in records.items() if topic_id != old}
    assert own == {at: (b"eth", b"old %d" % n) for n, at in enumerate(first)}
    assert others == {at: (b"eth", b"new %d" % n) for n, at in enumerate(second)}


def created(admin, topic):
    """Whether a topic could be created."""
    try:
        admin.create_topics([topic])[topic.topic].result(30)
    except Exception:
        return False
    return True


def test_compacted_and_control_offsets_are_told_apart_from_gaps(harness):
    admin = AdminClient(harness.kafka)
    quickly = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0"}
    resource = ConfigResource(
        ResourceType.TOPIC,
        INSTRUMENTS,
        incremental_configs=[
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in quickly.items()
        ],
    )
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)
    where = []
    for number in range(6):
        # Each in a segment of its own, of which all but the last may be compacted.
        where += harness.send([(b"sim.A-USDT", b"%d" % number)] * 3, INSTRUMENTS)
    partition, last = where[-1]
    harness.until(
        lambda: where[0][1] not in {o for p, o, *_ in harness.read(INSTRUMENTS) if p == partition}
    )
    transaction = Producer(harness.kafka | {"transactional.id": f"raw-{harness.venue}"})
    transaction.init_transactions(30)
    transaction.begin_transaction()
    transaction.produce(QUOTES, b"quote", b"sim.A-USDT", partition=0)
    transaction.commit_transaction(30)
    transaction.begin_transaction()
    transaction.produce(QUOTES, b"aborted", b"sim.A-USDT", partition=0)
    transaction.flush(30)
    transaction.abort_transaction(30)
    with harness.running("--only", "archive") as process:
        harness.until(
            lambda: harness.archived_up_to(INSTRUMENTS) and harness.archived_up_to(QUOTES), process
        )
    part = harness.manifests(INSTRUMENTS)[-1].current.partitions[partition]
    assert {gap.reason for gap in part.absent} == {COMPACTED}
    assert any(gap.first <= where[0][1] <= gap.last for gap in part.absent)
    quotes = harness.manifests(QUOTES)[-1].current.partitions[0]
    assert [(gap.first, gap.last, gap.reason) for gap in quotes.absent] == [
        # The marker of the first transaction, and the second one.
        (quotes.next - 3, quotes.next - 1, CONTROL)
    ]
    assert archived(harness, QUOTES) == {(0, quotes.next - 4): (b"sim.A-USDT", b"quote")}
    assert (partition, last) in archived(harness, INSTRUMENTS)
