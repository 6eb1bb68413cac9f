"""A manifest that is missing, or doesn't continue the one before it, is a fault."""

import pytest

from coinmesh_archive.manifest import Incarnation, Manifest, Partition
from coinmesh_archive.verification import history_faults


def history():
    """Four days; on the second the topic was created again."""
    first = Manifest(
        topic="t",
        date="2024-02-27",
        incarnations=[
            Incarnation(topic_id="a", partitions={n: Partition(first=0, next=5) for n in (0, 1)})
        ],
        origin=True,
    )
    days = [first]
    for _ in range(3):
        days[-1].sealed = True
        days.append(days[-1].following())
        if len(days) == 2:
            again = {n: Partition(first=0, next=9) for n in (0, 1)}
            days[-1].incarnations.append(Incarnation(topic_id="b", partitions=again))
    return days


def test_complete_history_has_no_fault():
    assert list(history_faults(history())) == []
    assert list(history_faults([])) == []


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        (0, "t 2024-02-28: it continues a day before it, which has no manifest"),
        (1, "t 2024-02-28: it has no manifest"),
        (2, "t 2024-02-29: it has no manifest"),
    ],
)
def test_missing_day_is_named(missing, fault):
    days = history()
    del days[missing]
    assert fault in list(history_faults(days))


def test_day_whose_incarnation_change_is_missing_is_named():
    days = history()
    days[1].incarnations = days[1].incarnations[:1]
    assert list(history_faults(days)) == [
        "t 2024-02-29: it doesn't continue a, the log that 2024-02-28 ends with"
    ]


def test_partition_that_is_not_continued_is_named():
    days = history()
    del days[1].incarnations[0].partitions[1]
    days[2].current.partitions[0].first += 1
    assert list(history_faults(days)) == [
        "t 2024-02-28, partition 1: it isn't continued at 5",
        "t 2024-02-29, partition 0: begins at 10, not at 9",
    ]


def test_start_is_not_judged_where_it_was_not_recorded():
    days = history()[1:]
    days[0].origin = None
    assert list(history_faults(days)) == []
