"""Runs the real application on a real mesh, and reads back all that it wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path

from bar_fields import bar_of_event, bar_of_row
from cassandra.cluster import Cluster
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pyarrow import fs

from coinmesh_archive.reader import read_day
from coinmesh_archive.store import ArchiveStore
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_TRADE
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_local.provision import ensure, maven
from meshkit.cassandra import CertificateAuthProvider
from meshkit.errors import Unavailable
from meshkit.kafka import client_config
from meshkit.settings import CassandraSettings, KafkaSettings, S3Settings

TRADES = topics.TRADES.name
NAMES = {1: "1s", 60: "1m", 300: "5m", 3600: "1h", 86400: "1d"}
RECORD = ("partition", "offset", "key", "value")
COINMESH_SPARK = str(Path(sys.executable).parent / "coinmesh-spark")


class Harness:
    """A mesh with the application's directories for one test."""

    def __init__(self, mesh, directory):
        ensure(["spark-jars"], lambda _: None)
        self.mesh, self.directory = mesh, directory
        self.environment = {
            **mesh.settings_of("spark-stream"),
            "COINMESH_SPARK_JARS": str(maven.directory("spark-jars")),
            "COINMESH_SPARK_CHECKPOINT_DIR": str(directory / "checkpoint"),
            "COINMESH_SPARK_SNAPSHOT_DIR": str(directory / "snapshots"),
            "COINMESH_SPARK_ARCHIVE_TRIGGER": "2",
            "COINMESH_METRICS_LISTEN": "",
            "COINMESH_SPARK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",
        }
        # Each test has a day and a bucket of its own: earlier trades than another test's on the
        # same mesh are late, and a new archive cuts objects anew. Others' records are deleted.
        counter = mesh.root / "spark-tests"
        number = int(counter.read_text()) + 1 if counter.exists() else 0
        counter.write_text(str(number))
        self.venue = f"t{number}"
        self.start_us = (1_723_075_200 + number * 86_400) * 1_000_000
        self.bucket = f"spark-test-{number}"
        self.store(allow_bucket_creation=True).create_dir(self.bucket)
        self.environment["COINMESH_S3_BUCKET"] = self.bucket
        # The job's own credentials are good for the mesh's bucket alone.
        credentials = "COINMESH_S3_CREDENTIALS_FILE"
        self.environment[credentials] = mesh.settings[credentials]
        self._trades_end = None
        self.begins = self._delete_records()
        self.log = directory / "application.log"
        self.header = framing.header(_schema_id(mesh, f"{TRADES}-value"))

    @property
    def kafka(self):
        """How a Kafka client that may do everything connects."""
        return client_config(self.mesh.read(KafkaSettings), "test")

    def _delete_records(self):
        """Delete all records; where each topic's partitions begin since: {topic: {n: offset}}."""
        deletable = [topic.name for topic in topics.ALL if topic.retention_days is not None]
        begins = {topic.name: {} for topic in topics.ALL} | {n: self.ends(n) for n in deletable}
        self.delete_records(begins)
        return begins

    def delete_records(self, begins):
        """Delete the records before {topic: {partition: offset}}."""
        places = [
            TopicPartition(topic, number, offset)
            for topic, partitions in begins.items()
            for number, offset in partitions.items()
            if offset
        ]
        admin = AdminClient(self.kafka)  # its answers end with it
        for done in admin.delete_records(places).values() if places else ():
            done.result(30)

    # -- the application ------------------------------------------------------------------------

    def start(self, *arguments, **environment):
        """Start the application; COINMESH_ settings without their prefix as keywords."""
        settings = {f"COINMESH_{name}": str(value) for name, value in environment.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [COINMESH_SPARK, "stream", *arguments],
                env={**os.environ, **self.environment, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def reset(self):
        """Forget the fold's state."""
        subprocess.run(
            [COINMESH_SPARK, "reset"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
        )

    @contextmanager
    def running(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            finally:
                end_group(process)

    def caught_up(self):
        """Whether the newest snapshot has all trades."""
        manifests = sorted((self.directory / "snapshots").glob("*.json"))
        if not manifests:
            return False
        parts = json.loads(manifests[-1].read_text())["partitions"]
        if self._trades_end is None:
            self._trades_end = self.ends(TRADES)
        done = {int(k): v["next_offset"] for k, v in parts.items()}
        return self.begins[TRADES] | done == self._trades_end

    def until(self, condition, process=None, timeout=900):
        """Wait for a condition; fails with the application's log if it ends or time is up."""
        deadline = time.monotonic() + timeout
        while not condition():
            if process is not None and process.poll() is not None:
                raise AssertionError(f"it ended with {process.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout} s\n{self.tail()}")
            time.sleep(0.2)

    def tail(self, size=6000):
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    # -- Kafka ----------------------------------------------------------------------------------

    def send(self, records, topic=TRADES, headers=None):
        """Produce (key, value) to a topic, by default the trades; [(partition, offset)]."""
        producer = Producer(
            {
                **self.kafka,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        where = [None] * len(records)

        def acknowledged(at):
            def report(error, message):
                assert error is None, error
                where[at] = (message.partition(), message.offset())

            return report

        for at, (key, value) in enumerate(records):
            producer.produce(topic, value, key, on_delivery=acknowledged(at), headers=headers)
            producer.poll(0)
        assert producer.flush(60) == 0
        self._trades_end = None
        return where

    def ends(self, topic):
        consumer = Consumer({**self.kafka, "group.id": "ends"})
        try:
            return {
                p: consumer.get_watermark_offsets(TopicPartition(topic, p), 10)[1]
                for p in range(topics.BY_NAME[topic].partitions)
            }
        finally:
            consumer.close()

    def read(self, topic):
        """This test's records of a topic, in order: (partition, offset, key, value)."""
        records = ((m.partition(), m.offset(), m.key(), m.value()) for m in self.messages(topic))
        return sorted(records, key=lambda record: record[:2])

    def messages(self, topic):
        """This test's records of a topic, of each partition in order."""
        ends = self.ends(topic)
        consumer = Consumer(
            {
                **self.kafka,
                "group.id": "reader",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )
        found = []
        begins = self.begins[topic]
        missing = {p: end for p, end in ends.items() if end > begins.get(p, 0)}
        consumer.assign([TopicPartition(topic, p, begins.get(p, 0)) for p in missing])
        try:
            while missing:
                for message in consumer.consume(10_000, 5):
                    assert message.error() is None, message.error()
                    partition, offset = message.partition(), message.offset()
                    found.append(message)
                    if missing.get(partition) == offset + 1:
                        del missing[partition]
        finally:
            consumer.close()
        return found

    def bar_events(self):
        """The bars of the topic: by instrument, interval and start that of the highest revision."""
        newest = {}
        for _, _, key, value in self.read(topics.BARS.name):
            event = Bar.FromString(value[6:])
            assert key == event.instrument.encode()
            at = (event.instrument, NAMES[event.interval_seconds], event.event_time // 1_000_000)
            if at not in newest or newest[at].revision < event.revision:
                newest[at] = event
        return self._own({at: bar_of_event(event) for at, event in newest.items()})

    def runs(self):
        """The runs that have written bars of this test's instruments to the topic."""
        events = [Bar.FromString(value[6:]) for *_, value in self.read(topics.BARS.name)]
        return {e.run for e in events if e.instrument.startswith(f"{self.venue}.")}

    def indicator_events(self):
        """As `bar_events`, by instrument, interval, start and name: (value, revision)."""
        newest = {}
        for _, _, _, value in self.read(topics.INDICATORS.name):
            event = IndicatorValue.FromString(value[6:])
            name = f"{event.indicator}/{event.period}/{event.output}"
            start = event.event_time // 1_000_000
            at = (event.instrument, NAMES[event.interval_seconds], start, name)
            if at not in newest or newest[at][1] < event.revision:
                newest[at] = (event.value, event.revision)
        return self._own(newest)

    def dead_letters(self):
        """Of trades: (origin partition, origin offset) → (reason, key, value)."""
        return self.dead_letters_of(TRADES)

    def dead_letters_of(self, topic):
        """As `dead_letters`, of any topic."""
        letters = (DeadLetter.FromString(v[6:]) for *_, v in self.read(topics.DEAD_LETTERS.name))
        return {
            (one.origin_partition, one.origin_offset): (one.reason, one.key, one.value)
            for one in letters
            if one.origin_topic == topic
        }

    # -- Cassandra ------------------------------------------------------------------------------

    @contextmanager
    def cassandra(self):
        host, port = self.mesh.read(CassandraSettings).cassandra_addresses[0]
        login = CertificateAuthProvider()
        tls = self.mesh.tls()
        cluster = Cluster([host], port, auth_provider=login, ssl_context=tls, protocol_version=5)
        try:
            session = cluster.connect("coinmesh")
            session.default_fetch_size = 5000
            yield session
        finally:
            cluster.shutdown()

    def bar_rows(self):
        """The bars' tables, by instrument, interval and start."""
        found = {}
        with self.cassandra() as session:
            for name in NAMES.values():
                for row in session.execute(f"SELECT * FROM bars_{name}", timeout=60):
                    start = round(row.start_time.timestamp())
                    assert row.bucket <= row.start_time
                    found[row.instrument, name, start] = bar_of_row(row.bar)
        return self._own(found)

    def indicator_rows(self):
        """The indicators' tables, by instrument, interval, start and name: (value, revision)."""
        found = {}
        with self.cassandra() as session:
            for name in NAMES.values():
                for row in session.execute(f"SELECT * FROM indicators_{name}", timeout=60):
                    start = round(row.start_time.timestamp())
                    for output, value in row.indicators.outputs.items():
                        at = (row.instrument, name, start, output)
                        found[at] = (f"{value:f}", row.indicators.revision)
        return self._own(found)

    def _own(self, found):
        """Only what is of this test's instruments."""
        return {at: value for at, value in found.items() if at[0].startswith(f"{self.venue}.")}

    # -- S3 -------------------------------------------------------------------------------------

    def store(self, **options):
        settings = self.mesh.settings
        keys = json.loads(Path(settings["COINMESH_S3_CREDENTIALS_FILE"]).read_text())
        return fs.S3FileSystem(
            access_key=keys["accessKey"],
            secret_key=keys["secretKey"],
            endpoint_override=settings["COINMESH_S3_ENDPOINT"].split("://")[1],
            tls_ca_file_path=str(self.mesh.home.ca),
            region="us-east-1",
            **options,
        )

    @property
    def archive(self):
        """The archive's store, as the job itself connects to it."""
        return ArchiveStore(
            self.mesh.read(S3Settings).model_copy(update={"s3_bucket": self.bucket})
        )

    def manifests(self, topic):
        """A topic's manifests, oldest first."""
        store = self.archive
        return [store.load(topic, date).manifest for date in store.dates(topic)]

    def archived(self, topic):
        """A topic's objects by manifest: {partition: [(first offset, last offset, key)]}."""
        found = defaultdict(list)
        for manifest in self.manifests(topic):
            for partition, part in manifest.current.partitions.items():
                found[partition] += [(one.first, one.last, one.key) for one in part.objects]
        return {partition: sorted(objects) for partition, objects in found.items() if objects}

    def archived_up_to(self, topic):
        """Whether the archive has all records of a topic; False while the store restarts."""
        try:
            manifests = self.manifests(topic)
        except Unavailable:
            return False
        if not manifests:
            return False
        parts = manifests[-1].current.partitions
        return {number: part.next for number, part in parts.items()} == self.ends(topic)

    def archived_records(self, topic):
        """Records as readers see them: {(topic id, partition, offset): (key, value)}."""
        store, found = self.archive, {}
        for date in store.dates(topic):
            for topic_id, table in read_day(store, topic, date):
                columns = (table.column(name).to_pylist() for name in RECORD)
                for partition, offset, *record in zip(*columns, strict=True):
                    assert (topic_id, partition, offset) not in found
                    found[topic_id, partition, offset] = tuple(record)
        return found


def trade(header, instrument, trade_id, time_us, price, size, buy, **fields):
    """(key, value) of a trade; price and size in units of 1e-8."""
    event = Trade(
        event_id=f"{instrument}:trade:{trade_id}",
        event_time=time_us,
        receive_time=time_us * 1000,
        source=instrument.split(".")[0],
        type=EVENT_TYPE_TRADE,
        instrument=instrument,
        symbol=instrument.split(".")[1].replace("-", ""),
        trade_id=trade_id,
        price_units=price,
        price_exponent=-8,
        size_units=size,
        size_exponent=-8,
        taker_side=1 if buy else 2,
    )
    for name, value in fields.items():
        setattr(event, name, value)
    return instrument.encode(), header + event.SerializeToString()


def end_group(process):
    """Kill what is left of the application: JVM and workers share its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def _schema_id(mesh, subject):
    import httpx

    url = f"{mesh.endpoints['registry']}/subjects/{subject}/versions/latest"
    return httpx.get(url, timeout=10, verify=mesh.tls()).json()["id"]
