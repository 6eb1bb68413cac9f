"""What Kafka no longer has stops the archive of its topic until an operator skips it."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from coinmesh_archive.manifest import Incarnation, Manifest, Newest, Partition
from coinmesh_archive.topic_log import (
    LostRecords,
    TopicLog,
    TopicLogs,
    check,
    next_offset,
    skip,
)

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


class Kafka:
    """Answers list_offsets for a log of (append time in ms, leader epoch) by offset."""

    def __init__(self, records):
        self.records, self.requests = records, 0

    def list_offsets(self, requests, **_):
        self.requests += 1
        answers = {}
        for place, spec in requests.items():
            later = [at for at, (ms, _) in enumerate(self.records) if ms >= spec._value]
            epoch = self.records[later[0]][1] if later else None
            answers[place] = Future()
            offset = (later or [-1])[0]
            answers[place].set_result(SimpleNamespace(offset=offset, leader_epoch=epoch))
        return answers


def grown(records, end):
    """The log of one partition that is archived to before 5, at leader epoch 3."""
    manifest = archived(5)
    manifest.current.partitions[0].newest = Newest(4, 104_000, 3)
    kafka = Kafka(records)
    found = TopicLog("t", "a", {0: (0, end)}, {0: records[-1][1]})
    return manifest.following(), TopicLogs(kafka).compared(found, manifest.following()), kafka


WHOLE = [(100 + at, 3) for at in range(5)]


@pytest.mark.parametrize("kept", range(5))
def test_log_that_was_truncated_and_has_grown_again_is_refused(kept):
    records = WHOLE[:kept] + [(500 + at, 4) for at in range(9)]
    manifest, kafka, _ = grown(records, len(records))
    with pytest.raises(LostRecords, match=f"truncated to {kept} and has grown again"):
        check(manifest, kafka)
    assert skip(manifest, kafka, **WHO)
    assert next_offset(manifest.current, 0) == kept
    check(manifest, TopicLog("t", "a", kafka.bounds, kafka.epochs))
    assert len(manifest.incarnations) == 2


def test_whole_partition_stays_recognizable_beside_a_truncated_one():
    manifest = archived(5, 5)
    for part in manifest.current.partitions.values():
        part.newest = Newest(4, 104_000, 3)
    assert skip(manifest, log((0, 3), (0, 7)), **WHO)
    newest = {number: part.newest for number, part in manifest.current.partitions.items()}
    assert newest == {0: None, 1: Newest(4, 104_000, 3)}


@pytest.mark.parametrize("later", [[(104, 3)], [(900, 4)], [(104, 4), (105, 4)]])
def test_new_leader_of_a_whole_log_is_accepted(later):
    manifest, kafka, requests = grown(WHOLE + later, 5 + len(later))
    check(manifest, kafka)
    assert requests.requests == (later[-1][1] != 3)


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
