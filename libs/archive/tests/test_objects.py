"""Objects are described as they are, whatever their records hold."""

import hashlib

import pyarrow as pa
import pytest

from coinmesh_archive.manifest import KeyStatistics, Newest, Partition
from coinmesh_archive.objects import build, facts, merged, parse, statistics
from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade

TOPIC = topics.TRADES.name
APPENDED = 1_723_075_200_000_000


def trade(trade_id, time):
    event = Trade(event_id="e", trade_id=trade_id, event_time=time)
    return framing.header(7) + event.SerializeToString()


def records(first, pairs):
    count = len(pairs)
    return pa.table(
        {
            "partition": pa.array([3] * count, pa.int32()),
            "offset": pa.array(range(first, first + count), pa.int64()),
            "timestamp": pa.array(range(APPENDED, APPENDED + count), pa.timestamp("us", "UTC")),
            "timestampType": pa.array([1] * count, pa.int32()),
            "key": pa.array([key for key, _ in pairs], pa.binary()),
            "value": pa.array([value for _, value in pairs], pa.binary()),
            "schema_id": pa.array([7] * count, pa.int32()),
        }
    )


def described(table):
    values = table.column("value").to_pylist()
    return build(TOPIC, table, statistics(table.column("key"), facts(TOPIC, values)))


def test_object_lists_ids_and_times_by_key():
    item, data = described(
        records(5, [(b"a", trade(9, 70)), (b"b", trade(4, 30)), (b"a", trade(8, 60))])
    )
    assert item.keys == {
        "a": KeyStatistics(2, (60, 70), (8, 9)),
        "b": KeyStatistics(1, (30, 30), (4, 4)),
    }
    assert (item.first, item.last, item.records, item.events) == (5, 7, 3, (30, 70))
    assert item.appended == (APPENDED, APPENDED + 2)
    assert item.size == len(data)
    assert item.sha256 == hashlib.sha256(data).hexdigest()
    assert item.key == (
        f"raw/{TOPIC}/date=2024-08-08/hour=00/3-{5:020d}-{7:020d}-{item.sha256[:16]}.parquet"
    )


def test_newest_append_time_counts_after_a_clock_is_set_back():
    table = records(5, [(b"a", trade(at, 70)) for at in range(3)])
    times = pa.array([APPENDED, APPENDED + 9, APPENDED + 1], pa.timestamp("us", "UTC"))
    item, _ = described(table.set_column(2, "timestamp", times))
    assert item.appended == (APPENDED, APPENDED + 9)
    partition = Partition(first=5, next=8, objects=[item])
    partition.note_newest(3)
    assert partition.newest == Newest(7, APPENDED + 9, 3)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"a", trade(2**64 - 1, -5), KeyStatistics(1, (-5, -5), (2**64 - 1, 2**64 - 1))),
        (b"a", trade(0, 0), KeyStatistics(1, None, None)),
        (b"a", b"not framed", KeyStatistics(1, None, None)),
        (b"a", framing.header(7) + b"\xff\xff", KeyStatistics(1, None, None)),
        (b"a", None, KeyStatistics(1, None, None)),
        (None, trade(1, 2), KeyStatistics(1, (2, 2), (1, 1))),
        (b"\xff", trade(1, 2), KeyStatistics(1, (2, 2), (1, 1))),
    ],
)
def test_poison_record_is_described_like_any_other(key, value, expected):
    item, _ = described(records(0, [(key, value)]))
    assert list(item.keys.values()) == [expected]


def test_keys_that_read_alike_are_counted_together():
    item, _ = described(records(0, [(b"\xff", b""), (b"\xfe", b""), (None, b""), (b"", b"")]))
    assert sum(part.records for part in item.keys.values()) == 4


def test_statistics_of_merged_objects_cover_both():
    first, _ = described(records(0, [(b"a", trade(1, 10)), (b"b", trade(2, 20))]))
    second, _ = described(records(2, [(b"a", trade(5, 5)), (b"c", b"")]))
    assert merged([first], second.keys) == {
        "a": KeyStatistics(2, (5, 10), (1, 5)),
        "b": KeyStatistics(1, (20, 20), (2, 2)),
        "c": KeyStatistics(1, None, None),
    }


def test_damaged_object_is_not_read():
    table = records(0, [(b"a", trade(1, 10))])
    item, data = described(table)
    assert parse(data, item.sha256).select(table.column_names).equals(table)
    assert parse(data[:-1] + b"x", item.sha256) is None
