"""What a batch read is what it planned, or the batch fails."""

import numpy as np
import pytest

from coinmesh_spark.reads import IncompleteReadError, check_read, check_reports


def offsets(*numbers):
    return np.array(numbers, dtype=np.int64)


def nothing_is_missing(partition, start, end):
    raise AssertionError("Kafka is read only when offsets are missing")


def without(*hidden):
    return lambda _, start, end: [at for at in range(start, end) if at not in hidden]


def test_whole_range_is_accepted_without_a_look_at_kafka():
    check_read(0, offsets(7, 8, 9), 7, 10, nothing_is_missing)


@pytest.mark.parametrize(
    "read",
    [
        offsets(8, 9),
        offsets(7, 8),
        offsets(7, 9),
        offsets(7, 8, 8, 9),
        offsets(8, 7, 9),
        offsets(6, 7, 8, 9),
        offsets(),
    ],
    ids=["late start", "early end", "hole", "repeated", "reordered", "early start", "nothing"],
)
def test_part_of_the_range_is_rejected(read):
    with pytest.raises(IncompleteReadError, match=r"partition 2: .* from 7 to 9"):
        check_read(2, read, 7, 10, without())


def test_offsets_that_kafka_does_not_give_out_may_lack():
    check_read(0, offsets(7, 9), 7, 12, without(8, 10, 11))
    with pytest.raises(IncompleteReadError):
        check_read(0, offsets(7), 7, 12, without(8, 10, 11))


def test_records_compacted_since_they_were_read_are_accepted():
    check_read(0, offsets(7, 9), 7, 12, without(7, 8, 10, 11), compacted=True)
    with pytest.raises(IncompleteReadError):
        check_read(0, offsets(7), 7, 12, without(7, 8, 10, 11), compacted=True)


STARTS, ENDS = {0: 5, 1: 5, 2: 5}, {0: 9, 1: 5, 2: 6}


def test_one_report_per_partition_with_records_is_accepted():
    check_reports([2, 0], STARTS, ENDS, nothing_is_missing)


def test_lost_report_is_rejected():
    with pytest.raises(IncompleteReadError, match="no task reported partition 2"):
        check_reports([0], STARTS, ENDS, without())
    check_reports([0], STARTS, ENDS, without(5))


def test_partition_read_by_two_tasks_is_rejected():
    with pytest.raises(IncompleteReadError, match="two tasks read partition 0"):
        check_reports([0, 2, 0], STARTS, ENDS, without())
