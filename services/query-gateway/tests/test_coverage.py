"""Which data is stale, by the collectors' signs of life."""

import math

import pytest
from confluent_kafka import murmur2
from market_data import INSTRUMENT, liveness

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.liveness_pb2 import COVERAGE_STATE_DOWN, COVERAGE_STATE_SYNCING
from query_gateway.coverage import Coverage

TRADES, QUOTES = topics.TRADES.name, topics.QUOTES.name
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
BOTH = {"trade": [INSTRUMENT], "quote": [INSTRUMENT]}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def test_instrument_without_any_liveness_is_stale() -> None:
    assert Coverage().is_stale(INSTRUMENT, ["trade"])


def test_quiet_instrument_on_live_connection_is_not_stale() -> None:
    clock = Clock()
    coverage = Coverage(clock)
    for _ in range(100):  # no event of it for 100 s
        coverage.apply(liveness(clock.now, **BOTH), clock.now // 10**6)
        clock.now += SECOND
        assert not coverage.is_stale(INSTRUMENT, ["trade", "quote"])


@pytest.mark.parametrize(("valid_seconds", "holds"), [(0, 5), (5, 5), (2, 2)])
def test_record_holds_for_its_time(valid_seconds: int, holds: int) -> None:
    clock = Clock()
    coverage = Coverage(clock)
    coverage.apply(liveness(START, valid_seconds=valid_seconds, **BOTH), START // 10**6)
    clock.now = START + holds * SECOND
    assert not coverage.is_stale(INSTRUMENT, ["trade"])
    clock.now += 1
    assert coverage.is_stale(INSTRUMENT, ["trade"])


@pytest.mark.parametrize("state", [COVERAGE_STATE_DOWN, COVERAGE_STATE_SYNCING])
def test_channel_that_is_not_live_is_stale(state: int) -> None:
    coverage = Coverage(Clock())
    coverage.apply(liveness(START, state=state, **BOTH), START // 10**6)  # type: ignore[arg-type]
    assert coverage.is_stale(INSTRUMENT, ["trade"])


def test_staleness_is_per_instrument_and_channel() -> None:
    coverage = Coverage(Clock())
    coverage.apply(liveness(START, **BOTH), START // 10**6)
    assert coverage.is_stale(INSTRUMENT, ["trade", "book"])
    assert coverage.is_stale("binance.ETH-USDT", ["trade"])
    assert not coverage.is_stale(INSTRUMENT, ["quote"])


@pytest.mark.parametrize(("receive_lag", "append_lag"), [(60, 0), (0, 60), (-3600, 60)])
def test_older_of_both_times_counts(receive_lag: int, append_lag: int) -> None:
    coverage = Coverage(Clock())
    appended_ms = (START - append_lag * SECOND) // 10**6
    coverage.apply(liveness(START - receive_lag * SECOND, **BOTH), appended_ms)
    assert coverage.is_stale(INSTRUMENT, ["trade"])


def test_outdated_writer_is_ignored() -> None:
    coverage = Coverage(Clock())
    coverage.apply(liveness(START, epoch=2, **BOTH), START // 10**6)
    down = liveness(START, epoch=1, state=COVERAGE_STATE_DOWN, **BOTH)
    coverage.apply(down, START // 10**6)
    assert not coverage.is_stale(INSTRUMENT, ["trade"])


def test_lower_epoch_counts_once_the_known_record_is_over() -> None:
    """The topic of checkpoints was created again: the collector's epochs begin at 1."""
    clock = Clock()
    coverage = Coverage(clock)
    coverage.apply(liveness(START, epoch=7, trade=[INSTRUMENT]), START // 10**6)
    for seconds, is_stale in ((1, True), (5, True), (6, False), (7, False)):
        clock.now = START + seconds * SECOND
        coverage.apply(liveness(clock.now, epoch=1, quote=[INSTRUMENT]), clock.now // 10**6)
        assert coverage.is_stale(INSTRUMENT, ["quote"]) is is_stale


def test_partition_that_is_read_late_is_stale() -> None:
    coverage = Coverage(Clock())
    coverage.apply(liveness(START, **BOTH), START // 10**6)
    partitions = [(topic, n) for topic in (TRADES, QUOTES) for n in range(4)]
    own = (TRADES, murmur2(INSTRUMENT.encode(), 4))
    others = {key: 60.0 for key in partitions if key[0] == TRADES and key != own}

    def stale_after(*lags: float) -> tuple[bool, bool]:
        for lag in lags:
            coverage.take_lags(dict.fromkeys(partitions, 0.0) | others | {own: lag})
        return coverage.is_stale(INSTRUMENT, ["quote"]), coverage.is_stale(INSTRUMENT, ["trade"])

    assert stale_after(0.0) == (False, False)
    # A record is being fetched, and the one before it is old.
    assert stale_after(3600.0, 0.0, 3600.0) == (False, False)
    assert stale_after(5.0, 5.0) == (False, False)
    assert stale_after(5.1, 6.1) == (False, True)
    assert stale_after(math.inf) == (False, True)
    assert stale_after(0.0) == (False, False)


def test_collectors_are_independent() -> None:
    clock = Clock()
    coverage = Coverage(clock)
    coverage.apply(liveness(START, trade=["sim.A-B"], collector="other"), START // 10**6)
    clock.now += 4 * SECOND
    coverage.apply(liveness(clock.now, **BOTH), clock.now // 10**6)
    assert not coverage.is_stale("sim.A-B", ["trade"])
    clock.now += 2 * SECOND
    assert coverage.is_stale("sim.A-B", ["trade"])
    assert not coverage.is_stale(INSTRUMENT, ["trade"])
