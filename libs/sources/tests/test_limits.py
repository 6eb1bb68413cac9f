"""Limits: request budgets, connection attempts, and spans of ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_sources.connections import AttemptLimit
from coinmesh_sources.gaps import missing_spans, without
from coinmesh_sources.rest import Budget


def test_cost_stays_within_the_window_and_its_reserve() -> None:
    budget = Budget(1000)
    now = 6000.0
    for _ in range(16):
        assert budget.delay(50, now) == 0
    assert budget.delay(50, now) == pytest.approx(60.05)
    assert budget.delay(50, now + 60) == 0


def test_reported_use_counts() -> None:
    budget = Budget(6000)
    budget.reported(5_000, 6005.0, 6010.0)
    assert budget.delay(50, 6011.0) > 0
    assert budget.used(6011.0) == 5_000


def test_budget_of_a_long_window_without_reserve() -> None:
    """Credits of a month: all of them can be used, then the next window is awaited."""
    budget = Budget(2, seconds=2_592_000, reserve=0)
    now = 2_592_000 * 3 + 2_591_990.0
    assert [budget.delay(1, now), budget.delay(1, now)] == [0, 0]
    assert budget.delay(1, now) == pytest.approx(10.05)
    assert budget.delay(1, now + 10) == 0


def test_connection_attempts_are_spread() -> None:
    limit = AttemptLimit(count=3, seconds=10)
    assert [limit.delay(t) for t in (0.0, 1.0, 2.0)] == [0, 0, 0]
    assert limit.delay(3.0) == 7
    assert limit.delay(10.0) == 0


@given(st.integers(0, 20), st.integers(0, 20), st.sets(st.integers(0, 30)))
def test_missing_spans_are_ids_not_present(first: int, length: int, present: set[int]) -> None:
    last = first + length
    spans = missing_spans((first, last), present)
    missing = [n for a, b in spans for n in range(a, b + 1)]
    assert missing == [n for n in range(first, last + 1) if n not in present]


def test_without_removes_covered_parts() -> None:
    assert without([(1, 10), (20, 22)], [(3, 4), (9, 20)]) == [(1, 2), (5, 8), (21, 22)]
