"""Objects of an archive without manifests are indexed once, whatever interrupts it."""

import pyarrow as pa
import pytest

from coinmesh_archive.index import Indexer, is_unfinished
from coinmesh_archive.objects import build
from coinmesh_archive.testing import MemoryStore
from coinmesh_archive.verification import history_faults
from coinmesh_contracts import topics
from meshkit.errors import FailedPrecondition

TOPIC = topics.BLOCKS.name
DAY = 86_400_000_000
FIRST = 1_723_075_200_000_000


def unlisted(store, offsets, appended, partition=0):
    """Write an object as an archive without manifests named it."""
    count = len(offsets)
    times = [appended + 1000 * at for at in range(count)]
    table = pa.table(
        {
            "partition": pa.array([partition] * count, pa.int32()),
            "offset": pa.array(offsets, pa.int64()),
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "timestampType": pa.array([1] * count, pa.int32()),
            "key": pa.array([b"k"] * count, pa.binary()),
            "value": pa.array([b"v"] * count, pa.binary()),
            "schema_id": pa.array([None] * count, pa.int32()),
        }
    )
    item, data = build(TOPIC, table, {})
    folder = item.key.rpartition("/")[0]
    store.write(f"{folder}/{partition}-{item.first:020d}-{item.last:020d}.parquet", data)


def archive():
    """Five days; on the third the topic was created again, the fourth has no record."""
    store = MemoryStore()
    unlisted(store, range(3, 9), FIRST)
    unlisted(store, range(7, 12), FIRST + 3_600_000_000)
    unlisted(store, range(14, 20), FIRST + DAY)
    unlisted(store, range(6), FIRST + 2 * DAY)
    unlisted(store, range(6, 9), FIRST + 4 * DAY)
    return store


def index(store):
    return [manifest.date for manifest in Indexer(store, TOPIC, "id", "os:ann", 1).run()]


def manifests(store):
    return [store.load(TOPIC, date).manifest for date in store.dates(TOPIC)]


class Interrupted(Exception):
    """The process ends."""


@pytest.mark.parametrize("written", range(5))
def test_interrupted_index_is_completed_by_a_repetition(written):
    expected = archive()
    dates = index(expected)
    assert dates == sorted(dates, reverse=True)
    store = archive()

    def interrupt(key):
        if "_manifests" in key and len(store.dates(TOPIC)) == written:
            raise Interrupted

    store.s3.before_put = interrupt
    with pytest.raises(Interrupted):
        index(store)
    assert store.dates(TOPIC) == sorted(dates[:written])
    store.s3.before_put = lambda _: None
    assert is_unfinished(store, TOPIC)
    assert index(store) == dates[written:]
    assert manifests(store) == manifests(expected)
    assert [manifest.sealed for manifest in manifests(store)] == [True, True, True, True, False]
    assert list(history_faults(manifests(store))) == []
    assert not is_unfinished(store, TOPIC)
    with pytest.raises(FailedPrecondition, match="has manifests already"):
        index(store)


def test_index_continues_after_the_archive_has_replaced_newer_objects():
    store = archive()
    index(store)
    expected = manifests(store)
    older = store.dates(TOPIC)[:-1]
    for date in older:
        store.delete([f"raw/{TOPIC}/_manifests/date={date}.json.gz"])
    store.delete(item.key for item in expected[-1].current.partitions[0].objects)
    assert index(store) == older[::-1]
    assert manifests(store) == expected


def test_index_rejects_manifests_that_do_not_continue_the_objects():
    store = archive()
    index(store)
    *older, newest = store.dates(TOPIC)
    for date in older:
        store.delete([f"raw/{TOPIC}/_manifests/date={date}.json.gz"])
    unlisted(store, range(6, 8), FIRST + 2 * DAY + 3_600_000_000)
    with pytest.raises(FailedPrecondition, match="don't begin where"):
        index(store)
    assert store.dates(TOPIC) == [newest]


@pytest.mark.parametrize("first", [41, 100])
def test_topic_recreated_within_an_hour_has_two_incarnations(first):
    store = MemoryStore()
    unlisted(store, range(first, first + 20), FIRST)
    unlisted(store, range(41), FIRST + 600_000_000)
    unlisted(store, range(41, 50), FIRST + 1_200_000_000)
    index(store)
    old, new = manifests(store)[0].incarnations
    assert (old.topic_id, new.topic_id) == ("unknown-0", "id")
    spans = [[(item.first, item.last) for item in one.partitions[0].objects] for one in (old, new)]
    assert spans == [[(first, first + 19)], [(0, 40), (41, 49)]]
