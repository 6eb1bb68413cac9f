"""Backoff as a state machine, with time and chance given."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.backoff import Backoff, RetriesExhaustedError


def highest(low: float, high: float) -> float:
    return high


@given(
    base=st.floats(0.001, 10),
    ratio=st.floats(1, 1000),
    seed=st.integers(),
    count=st.integers(1, 200),
)
def test_delays_stay_below_the_doubling_cap(base: float, ratio: float, seed: int, count: int):
    cap = base * ratio
    backoff = Backoff(base, cap, uniform=random.Random(seed).uniform)
    for attempt in range(count):
        assert 0 <= next(backoff) <= min(cap, base * 2**attempt)
    assert backoff.attempt == count


def test_the_upper_bound_doubles_to_the_cap():
    backoff = Backoff(1, 10, uniform=highest)
    assert [next(backoff) for _ in range(6)] == [1, 2, 4, 8, 10, 10]


def test_the_limit_ends_the_iterator():
    assert len(list(Backoff(1, 10, limit=3, uniform=highest))) == 3


async def test_wait_sleeps_reports_and_gives_up():
    slept: list[float] = []
    told: list[tuple[int, float]] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    backoff = Backoff(
        1, 10, limit=2, uniform=highest, sleep=sleep, on_retry=lambda *args: told.append(args)
    )
    assert await backoff.wait() == 1
    assert await backoff.wait() == 2
    with pytest.raises(RetriesExhaustedError):
        await backoff.wait()
    assert slept == [1, 2]
    assert told == [(1, 1), (2, 2)]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=50))
def test_only_lasting_health_resets(steps: list[tuple[bool, float]]):
    """Against a model: the attempt resets iff a healthy stretch lasted 60 s before a failure."""
    now = 0.0
    backoff = Backoff(1, 64, healthy_after=60, uniform=highest, clock=lambda: now)
    attempt, since = 0, None
    for healthy, passed in steps:
        now += passed
        if healthy:
            backoff.healthy()
            since = now if since is None else since
        else:
            if since is not None and now - since >= 60:
                attempt = 0
            since = None
            assert next(backoff) == min(64, 2**attempt)
            attempt += 1


def test_reset_starts_over():
    backoff = Backoff(1, 10, uniform=highest)
    next(backoff)
    next(backoff)
    backoff.reset()
    assert next(backoff) == 1


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (2, 1), (-1, 1)])
def test_senseless_bounds_are_refused(base: float, cap: float):
    with pytest.raises(ValueError, match="base"):
        Backoff(base, cap)
