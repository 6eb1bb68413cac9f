"""Intervals and the partitions of the stored ones."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts.serving import INTERVALS
from meshkit.errors import InvalidArgument
from query_gateway import intervals

TIMES = st.integers(0, 4_000_000_000_000)
STORED = st.sampled_from(list(INTERVALS))


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stored", "factor"),
    [
        ("1s", "1s", 1),
        ("15m", "5m", 3),
        ("3m", "1m", 3),
        ("4h", "1h", 4),
        ("90s", "1s", 90),
        ("60s", "1m", 1),
        ("24h", "1d", 1),
        ("12h", "1h", 12),
    ],
)
def test_a_multiple_is_made_from_the_longest_interval_that_divides_it(
    name: str, stored: str, factor: int
) -> None:
    interval = intervals.parse(name)
    assert (interval.stored, interval.factor) == (stored, factor)


@pytest.mark.parametrize("name", ["", "1w", "7m", "2d", "0m", "01m", "1M", "1m ", "-1m", "9" * 50])
def test_an_unknown_interval_names_the_valid_ones(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        intervals.parse(name)
    assert caught.value.reason == "UNKNOWN_INTERVAL"
    assert "15m" in caught.value.message


@pytest.mark.parametrize(
    ("stored", "start"),
    [
        ("1s", ms(2026, 3, 4, 5)),
        ("1m", ms(2026, 3, 4)),
        ("5m", ms(2026, 3, 2)),  # a Monday
        ("1h", ms(2026, 3, 1)),
        ("1d", ms(2026, 1, 1)),
    ],
)
def test_partitions_start_where_the_schema_says(stored: str, start: int) -> None:
    assert intervals.bucket(stored, ms(2026, 3, 4, 5, 6, 7)) == start


@given(STORED, TIMES)
def test_every_time_is_in_exactly_the_partition_that_begins_last(stored: str, time: int) -> None:
    start = intervals.bucket(stored, time)
    after = intervals.next_bucket(stored, start)
    assert start <= time < after
    assert intervals.bucket(stored, after) == after
    assert intervals.bucket(stored, after - 1) == start


@given(STORED, TIMES, st.integers(1, 10**10))
def test_the_partitions_of_a_range_cover_it(stored: str, low: int, length: int) -> None:
    found = intervals.buckets(stored, low, min(low + length, low + 100 * 3_600_000))
    assert found[0] == intervals.bucket(stored, low)
    assert found == sorted(set(found))
