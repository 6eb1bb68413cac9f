"""The fold against an independent computation, whatever the order, repetition and batches."""

import random
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
import reference
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from coinmesh_contracts import stored_trades
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, Trade
from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark import fold
from coinmesh_spark.snapshots import decode_partition, encode_partition
from coinmesh_spark.state import Partition
from coinmesh_spark.trades import Trades

EXPONENT = -8
S = 1_000_000
START = 1_723_075_200 * S


def columns(rows):
    """Trades of rows (instrument, id, time µs, price units, size units, buy[, exponents])."""
    names = sorted({row[0] for row in rows})
    code = {name: at for at, name in enumerate(names)}
    exponents = [row[6] if len(row) > 6 else (EXPONENT, EXPONENT) for row in rows]

    def ints(values):
        return np.array(list(values), dtype=np.int64)

    return Trades(
        names,
        ints(code[row[0]] for row in rows),
        ints(row[1] for row in rows),
        ints(row[2] for row in rows),
        ints(row[3] for row in rows),
        ints(e[0] for e in exponents),
        ints(row[4] for row in rows),
        ints(e[1] for e in exponents),
        np.array([row[5] for row in rows], dtype=np.bool_),
    )


class Folded:
    """A fold fed batch by batch, with the newest revision of all that it gave out."""

    def __init__(self, rules=None):
        self.rules = rules or fold.Rules()
        self.state = Partition()
        self.bars = {}
        self.indicators = {}
        self.revisions = {}
        self.duplicates = self.late = self.admitted = 0
        self.rejected = []

    def feed(self, rows):
        changes = fold.apply(self.state, columns(rows), self.rules)
        for changed in changes.bars:
            key = changed.instrument, changed.interval, changed.bar.start
            value = as_decimals(changed)
            before = self.bars.get(key)
            assert before is None or before["revision"] < value["revision"], "a revision must grow"
            self.bars[key] = value
        for changed in changes.indicators:
            at = changed.instrument, changed.interval, changed.start
            assert self.revisions.get(at, -1) < changed.revision, "a revision must grow"
            self.revisions[at] = changed.revision
            for output, units in changed.values.items():
                self.indicators[(*at, output.key)] = reference.to_decimal(units, -12)
        self.duplicates += changes.duplicates
        self.late += changes.late
        self.admitted += changes.admitted
        self.rejected += changes.rejected
        self.state = decode_partition(encode_partition(self.state))
        return changes

    def of(self, instrument):
        return {key[1:]: value for key, value in self.bars.items() if key[0] == instrument}


def as_decimals(changed):
    bar, price, size = changed.bar, changed.price_exponent, changed.size_exponent
    return {
        "open": reference.to_decimal(bar.open, price),
        "high": reference.to_decimal(bar.high, price),
        "low": reference.to_decimal(bar.low, price),
        "close": reference.to_decimal(bar.close, price),
        "volume": reference.to_decimal(bar.volume, size),
        "quote_volume": reference.to_decimal(bar.quote_volume, price + size),
        "vwap": reference.to_decimal(bar.vwap(), price - 8),
        "taker_buy_volume": reference.to_decimal(bar.taker_buy_volume, size),
        "taker_buy_quote_volume": reference.to_decimal(bar.taker_buy_quote_volume, price + size),
        "trade_count": bar.trades,
        "first_trade_id": bar.first_id,
        "last_trade_id": bar.last_id,
        "final": changed.final,
        "revision": bar.revision(changed.final),
    }


def as_reference(rows, instrument):
    found = {}
    for name, trade_id, time, price, size, buy in rows:
        if name == instrument:
            amounts = Decimal(price).scaleb(EXPONENT), Decimal(size).scaleb(EXPONENT)
            found.setdefault(trade_id, (time, *amounts, buy))
    return found


def market(seed, instruments=3, count=600, seconds=400):
    """Trades in the order of their times, ids dense per instrument."""
    rng = random.Random(seed)
    rows = []
    for number in range(instruments):
        price = rng.randrange(10**6, 10**13)
        times = sorted(rng.randrange(seconds * S) for _ in range(count))
        for at, time in enumerate(times):
            price = max(1, price + rng.randrange(-(10**5), 10**5))
            size = rng.randrange(1, 10**12)
            row = (f"sim.I{number}-USDT", 100 + at, START + time, price, size, rng.random() < 0.5)
            rows.append(row)
    return sorted(rows, key=lambda row: row[2])


def printed(values):
    return {k: f"{v:f}" if isinstance(v, Decimal) else v for k, v in values.items()}


def check(folded, rows, watermarks):
    """All bars and indicators are as the reference has them, digit for digit."""
    for instrument in {row[0] for row in rows}:
        expected = reference.bars(as_reference(rows, instrument), watermarks[instrument])
        got = {key[1:]: bar for key, bar in folded.bars.items() if key[0] == instrument}
        assert {key: printed(bar) for key, bar in got.items()} == {
            key: printed(bar) for key, bar in expected.items()
        }
        for interval in INTERVALS:
            here = instrument, interval
            values = reference.indicators(expected, interval)
            assert printed(
                {key[2:]: value for key, value in folded.indicators.items() if key[:2] == here}
            ) == printed(values)
            revisions = reference.indicator_revisions(expected, interval)
            assert {
                key[2]: value for key, value in folded.revisions.items() if key[:2] == here
            } == {start: revisions[start] for start, _ in values}


def watermarks(rows, rules):
    """Per instrument, after all rows: what the rules say, by their words."""
    newest = max(row[2] for row in rows)
    return {
        name: max(
            max(row[2] for row in rows if row[0] == name) - rules.disorder, newest - rules.idle
        )
        for name in {row[0] for row in rows}
    }


def in_batches(rows, cuts):
    edges = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    return [rows[a:b] for a, b in pairwise(edges)]


def disturbed(rows, rng, disorder=2 * S):
    """Shuffled within the allowed disorder, with duplicates anywhere after their originals."""
    keyed = sorted(rows, key=lambda row: row[2] + rng.randrange(disorder))
    out = list(keyed)
    for _ in range(len(rows) // 20):
        at = rng.randrange(len(out))
        out.insert(rng.randrange(at, len(out)) + 1, out[at])
    return out


def test_bars_and_indicators_equal_the_reference():
    rows = market(1)
    folded = Folded()
    folded.feed(rows)
    check(folded, rows, watermarks(rows, folded.rules))
    assert folded.admitted == len(rows)
    kinds = {key[3] for key in folded.indicators if key[1] == "1s"}
    assert kinds == {
        "sma/20/", "ema/20/", "vwap/20/", "rsi/14/",
        "bollinger/20/lower", "bollinger/20/middle", "bollinger/20/upper",
    }  # fmt: skip


@pytest.mark.slow
def test_look_backs_of_an_hour_and_a_day_fill():
    """RSI looks back on 140 bars and EMA on 200: 230 days of a trade every eight hours."""
    rng = random.Random(7)
    rows = [
        ("sim.A", 1 + at, START + at * 8 * 3600 * S, rng.randrange(10**9, 2 * 10**9), 10**6, True)
        for at in range(3 * 230)
    ]
    folded = Folded()
    for batch in in_batches(rows, range(97, len(rows), 97)):
        folded.feed(batch)
    check(folded, rows, watermarks(rows, folded.rules))
    for interval in ("1h", "1d"):
        kinds = {key[3] for key in folded.indicators if key[1] == interval}
        assert {"ema/20/", "rsi/14/"} <= kinds, interval


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 10**6), max_size=12))
def test_order_repetition_and_batches_change_nothing(seed, cuts):
    rows = market(seed % 97, instruments=2, count=300, seconds=250)
    sent = disturbed(rows, random.Random(seed))
    folded = Folded()
    for batch in in_batches(sent, cuts):
        folded.feed(batch)
    check(folded, rows, watermarks(rows, folded.rules))
    assert (folded.admitted, folded.duplicates, folded.late) == (
        len(rows),
        len(sent) - len(rows),
        0,
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
def test_repaired_trades_inside_the_horizon_rewrite_bars_and_indicators(seed, cuts):
    rng = random.Random(seed)
    rows = market(seed % 89, instruments=2, count=500, seconds=700)
    missing = [row for row in rows if rng.random() < 0.1]
    sent = [row for row in rows if row not in set(missing)]
    # Each comes back between 3 s and 4 min later, when its windows have long been closed.
    back = [(row[2] + rng.randrange(3 * S, 240 * S), row) for row in missing]
    timeline = sorted([(row[2], row) for row in sent] + back, key=lambda pair: pair[0])
    folded = Folded()
    for batch in in_batches([row for _, row in timeline], cuts):
        folded.feed(batch)
    check(folded, rows, watermarks(rows, folded.rules))
    assert folded.late == 0


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_trades_beyond_the_horizon_are_late_whatever_the_batches(cuts):
    rows = market(7, instruments=1, count=400, seconds=900)
    early = [row for row in rows if row[2] < START + 400 * S][::7]
    rest = [row for row in rows if row not in set(early)]
    folded = Folded()
    for batch in in_batches(rest + early, cuts):
        folded.feed(batch)
    limit = watermarks(rest, folded.rules)["sim.I0-USDT"] - folded.rules.horizon
    late = [row for row in early if (row[2] // S + 1) * S <= limit]
    kept = [row for row in rows if row not in set(late)]
    assert late
    assert folded.late == len(late)
    check(folded, kept, watermarks(rows, folded.rules))


def test_a_silent_instrument_is_closed_by_its_partition():
    rows = [
        ("sim.QUIET", 1, START, 100, 10, True),
        ("sim.LOUD", 1, START, 100, 10, True),
    ]
    folded = Folded()
    folded.feed(rows)
    assert not folded.of("sim.QUIET")["1s", START // S]["final"]
    folded.feed([("sim.LOUD", 2, START + 10 * S, 100, 10, True)])
    assert not folded.of("sim.QUIET")["1s", START // S]["final"]
    folded.feed([("sim.LOUD", 3, START + 11 * S, 100, 10, True)])
    assert folded.of("sim.QUIET")["1s", START // S]["final"]
    assert not folded.of("sim.QUIET")["1m", START // S]["final"]


def test_the_last_window_of_an_ended_capture_stays_open():
    folded = Folded()
    folded.feed([("sim.A", 1, START, 100, 10, True), ("sim.A", 2, START + 5 * S, 100, 10, True)])
    folded.feed([])
    assert folded.of("sim.A")["1s", START // S]["final"]
    assert not folded.of("sim.A")["1s", START // S + 5]["final"]


def test_sums_beyond_64_bits_are_exact():
    big = 2**62
    rows = [("sim.CHEAP", at, START, 12_345, big, at % 2 == 0) for at in range(1, 9)]
    folded = Folded()
    for row in rows:
        folded.feed([row])
    bar = folded.of("sim.CHEAP")["1d", START // S]
    assert bar["volume"] == Decimal(8 * big).scaleb(-8)
    assert bar["quote_volume"] == Decimal(8 * big * 12_345).scaleb(-16)
    assert bar["taker_buy_volume"] == Decimal(4 * big).scaleb(-8)


@pytest.mark.parametrize("split", [False, True])
def test_exponents_that_differ_are_normalized(split):
    rows = [
        ("sim.A", 1, START, 100, 10, True, (-2, -8)),
        ("sim.A", 2, START, 15, 2**62, True, (-1, -7)),
        ("sim.A", 3, START, 1_0001, 10, True, (-4, -9)),
    ]
    folded = Folded()
    for batch in [[row] for row in rows] if split else [rows]:
        folded.feed(batch)
    bar = folded.of("sim.A")["1s", START // S]
    assert printed({"open": bar["open"], "high": bar["high"], "low": bar["low"]}) == {
        "open": "1.0000",
        "high": "1.5000",
        "low": "1.0000",
    }
    assert bar["close"] == Decimal("1.0001")
    assert bar["volume"] == Decimal("0.0000001") + Decimal(2**62).scaleb(-7) + Decimal("1e-8")


def test_what_no_unit_can_hold_is_rejected():
    folded = Folded()
    folded.feed(
        [
            ("sim.A", 1, START, 100, 10, True, (-8, -8)),
            ("sim.A", 2, START, 2**62, 10, True, (0, -8)),
            ("sim.A", 3, START, 100, 11, True, (-8, -8)),
        ]
    )
    assert folded.rejected == [(1, "VALUE_OUT_OF_RANGE")]
    assert folded.of("sim.A")["1s", START // S]["trade_count"] == 2


def test_trade_that_only_the_fold_rejects_is_stored():
    """By itself it is valid: whether it fits depends on the trades of its instrument before it."""
    fields = {"price_units": 2**62, "price_exponent": 0, "size_units": 10, "size_exponent": -8}
    event = Trade(
        instrument="sim.A", trade_id=2, event_time=START, taker_side=TAKER_SIDE_BUY, **fields
    )
    assert stored_trades.rejected(event, b"sim.A", START) is None
    row = ("sim.A", 2, START, 2**62, 10, True, (0, -8))
    alone, after = Folded(), Folded()
    alone.feed([row])
    assert alone.rejected == []
    after.feed([("sim.A", 1, START, 100, 10, True, (-8, -8)), row])
    assert after.rejected == [(1, "VALUE_OUT_OF_RANGE")]


@pytest.mark.slow
def test_the_state_of_a_partition_is_bounded():
    folded = Folded()
    sizes = []
    for hour in range(6):
        rows = [
            ("sim.A", hour * 3600 + at, START + (hour * 3600 + at) * S, 10**10, 10**8, True)
            for at in range(3600)
        ]
        for batch in in_batches(rows, range(0, 3600, 300)):
            folded.feed(batch)
        sizes.append(len(encode_partition(folded.state)))
    window = folded.state.open("sim.A").windows["1s"]
    assert len(window.closed) <= 2 * 300 + 1
    assert sizes[-1] < sizes[0] * 1.4


EXPONENTS = st.sampled_from([-8, -8, -8, -6, -9, -10, -12, 2])
AMOUNTS = st.one_of(st.integers(1, 10**12), st.sampled_from([10**18, 2**63 - 1, 100, 10**10]))
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["sim.A", "sim.B"]),
        st.integers(1, 12),
        st.integers(0, 400),
        AMOUNTS,
        AMOUNTS,
        st.booleans(),
        st.tuples(EXPONENTS, EXPONENTS),
    ),
    min_size=2,
    max_size=12,
)


@settings(deadline=None, max_examples=60, phases=(Phase.explicit, Phase.generate))
@given(ROWS, st.sets(st.integers(1, 11)))
def test_normalization_is_the_same_however_batches_are_cut(rows, cuts):
    rows = [(*row[:2], START + row[2] * S, *row[3:]) for row in rows]
    whole, cut = Folded(), Folded()
    whole.feed(rows)
    edges = sorted({0, len(rows), *(at for at in cuts if at < len(rows))})
    rejected = []
    for begin, end in pairwise(edges):
        changes = cut.feed(rows[begin:end])
        rejected += [(begin + row, reason) for row, reason in changes.rejected]
    assert rejected == whole.rejected
    # As text: 1.0 and 1.00 are the same number, but not the same bar.
    assert texts(cut.bars) == texts(whole.bars)
    assert texts(cut.indicators) == texts(whole.indicators)


def texts(values):
    return {key: str(value) for key, value in values.items()}
