"""What the archive tells of records that are not events of their topic."""

import pyarrow as pa

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_spark.archive_task import _decode, _report

KNOWN, LETTERS, OURS = 7, 9, 11


class Store:
    """Kafka and the registry, as far as the archive asks them."""

    name = "spark-stream"

    def __init__(self):
        self.kafka, self.sent, self.flushed = self, [], False

    def accepts(self, topic, schema_id):
        assert schema_id != OURS, "the release's own schema is known without the registry"
        return schema_id == KNOWN

    def send(self, topic, key, value):
        assert topic == topics.DEAD_LETTERS.name
        self.sent.append((key, DeadLetter.FromString(framing.split(value)[1])))

    def flush(self):
        self.flushed = True


def told(topic, values):
    """Reasons by count, and the letters of records with these values from offset 40 on."""
    table = pa.table(
        {
            "partition": pa.array([3] * len(values), pa.int32()),
            "offset": pa.array(range(40, 40 + len(values)), pa.int64()),
            "timestamp": pa.array([1_723_075_200_000_000] * len(values), pa.timestamp("us", "UTC")),
            "key": pa.array([b"binance.X"] * len(values), pa.binary()),
            "value": pa.array(values, pa.binary()),
        }
    )
    store = Store()
    schemas = {topics.DEAD_LETTERS.name: LETTERS, topics.QUOTES.name: OURS}
    _, letters = _decode(store, topic, table, schemas)
    counts = _report(store, topic, table, letters, schemas)
    assert store.flushed is bool(store.sent)
    return counts, store.sent


def test_each_bad_record_is_told_once_with_its_place():
    good = framing.header(KNOWN) + Quote(event_id="q").SerializeToString()
    ours = framing.header(OURS) + Quote(event_id="o").SerializeToString()
    bad = [b"no frame", framing.header(8) + b"\0", framing.header(KNOWN) + b"\xff\xff\xff", None]
    counts, letters = told(topics.QUOTES.name, [good, *bad, ours])
    assert sum(counts.values()) == 4
    assert (counts["UNKNOWN_SCHEMA_ID"], counts["BAD_PROTOBUF"]) == (1, 1)
    assert [key for key, _ in letters] == [b"binance.X"] * 4
    assert [letter.event_id for _, letter in letters] == [
        f"dlq:{topics.QUOTES.name}:3:{offset}" for offset in (41, 42, 43, 44)
    ]
    assert [letter.value for _, letter in letters] == [*bad[:3], b""]
    assert {letter.receive_time for _, letter in letters} == {1_723_075_200_000_000_000}
    assert {letter.instrument for _, letter in letters} == {"binance.X"}


def test_forgetting_a_key_of_a_compacted_topic_is_no_fault():
    good = framing.header(KNOWN) + Instrument(event_id="i").SerializeToString()
    assert told(topics.INSTRUMENTS.name, [good, None]) == ({}, [])
