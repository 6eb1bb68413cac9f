"""What Kafka no longer has stops the archive of its topic until an operator skips it."""

import pytest

from coinmesh_archive.manifest import Incarnation, Manifest, Partition
from coinmesh_archive.topic_log import LostRecords, TopicLog, check, next_offset, skip

WHO = {"reason": "disk lost", "actor": "os:ann", "time": 1}


def archived(*positions, topic_id="a"):
    partitions = {n: Partition(first=end, next=end) for n, end in enumerate(positions)}
    return Manifest(
        topic="t",
        date="2024-01-01",
        incarnations=[Incarnation(topic_id=topic_id, partitions=partitions)],
    )


def log(*bounds, topic_id="a"):
    return TopicLog("t", topic_id, dict(enumerate(bounds)))


@pytest.mark.parametrize(
    ("kafka", "problem"),
    [
        (log((0, 9), (8, 9)), "deleted offsets 5 to 7 of partition 1"),
        (log((0, 3), (0, 9)), "partition 0 was truncated to 3, but is archived to 4"),
        (log((0, 9), (0, 9), topic_id="b"), "deleted and created again"),
        (log((0, 9), (0, 9), (2, 4)), "deleted offsets 0 to 1 of partition 2"),
    ],
)
def test_loss_is_refused_until_it_is_skipped(kafka, problem):
    manifest = archived(5, 5)
    with pytest.raises(LostRecords, match=problem):
        check(manifest, kafka)
    assert skip(manifest, kafka, **WHO)
    check(manifest, kafka)
    assert manifest.faults() == []


def test_nothing_lost_is_not_skipped():
    manifest = archived(5, 5)
    kafka = log((0, 9), (5, 5), (0, 4))
    check(manifest, kafka)
    assert skip(manifest, kafka, **WHO) == []
    assert next_offset(manifest.current, 2) == 0


def test_unreadable_range_is_skipped_up_to_the_named_offset():
    manifest = archived(5, 5)
    lines = skip(manifest, log((0, 9), (0, 9)), **WHO, until={1: 8})
    assert lines == ["t, partition 1: offsets 5 to 7"]
    (entry,) = manifest.current.partitions[1].skipped
    assert (entry.first, entry.last, entry.reason, entry.actor) == (5, 7, "disk lost", "os:ann")
    assert next_offset(manifest.current, 0) == 5


def test_new_incarnation_keeps_the_old_one():
    manifest = archived(5, 7)
    skip(manifest, log((0, 3), (1, 4), topic_id="b"), **WHO)
    old, new = manifest.incarnations
    assert old.ended is not None
    assert (old.topic_id, old.ended.last, old.ended.reason) == ("a", None, "disk lost")
    assert {n: part.next for n, part in new.partitions.items()} == {0: 0, 1: 1}
