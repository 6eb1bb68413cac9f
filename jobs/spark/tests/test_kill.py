"""A 3-hour market through kills of worker, JVM and driver: every digit is as computed apart."""

import random
import time
from collections import Counter
from decimal import Decimal

import harness as h
import pytest
import reference

from coinmesh_contracts import topics

pytestmark = [pytest.mark.component, pytest.mark.timeout(1800)]

S = 1_000_000
HOURS = 3
SYMBOLS = 20
TRADES = 12_000
BATCH = 800

# Points of the task and of the driver, and who is killed there; the batch is drawn by the seed.
STRIKES = (
    ("decoded", "worker"),
    ("folded", "worker"),
    ("written", "worker"),
    ("written", "jvm"),
    ("half", "worker"),
    ("half", "driver"),
    ("sent", "worker"),
    ("sent", "worker"),
    ("saved", "worker"),
    ("reported", "driver"),
    ("committed", "jvm"),
    ("archived", "worker"),
    ("collected", "driver"),
    ("listed", "jvm"),
    ("retired", "driver"),
)
ARCHIVE = ("archived", "collected", "listed", "retired")
#: One at each stage of a batch, every victim among them; `make soak` adds the others.
QUICK = (
    ("decoded", "worker"),
    ("written", "jvm"),
    ("half", "driver"),
    ("sent", "worker"),
    ("saved", "worker"),
    ("archived", "worker"),
    ("listed", "jvm"),
)


def market(rng, venue, begin):
    """(arrival, instrument, id, time, price, size, buy): times by symbol dense in places."""
    span = HOURS * 3600 * S
    rows = []
    for number in range(SYMBOLS):
        instrument = f"{venue}.C{number}-USDT"
        price = rng.randrange(10**5, 10**13)
        count = TRADES // SYMBOLS
        times = sorted(begin + rng.randrange(span) for _ in range(count))
        for at, trade_time in enumerate(times):
            price = max(1, price + rng.randrange(-(price // 500 + 1), price // 500 + 2))
            # A cheap coin's amounts make sums that don't fit 64 bits.
            size = rng.randrange(1, 2**62 if number == 0 and price < 10**10 else 10**11)
            row = (instrument, 10**6 + at, trade_time, price, size, rng.random() < 0.5)
            delay = rng.randrange(2 * S)
            if rng.random() < 0.01:
                delay = rng.randrange(5 * S, 280 * S)  # repaired inside the horizon
            elif rng.random() < 0.002:
                delay = rng.randrange(400 * S, 2000 * S)  # too late for the stream
            rows.append((trade_time + delay, row))
            if rng.random() < 0.02:
                rows.append((trade_time + delay + rng.randrange(3000 * S), row))
    rows.sort(key=lambda pair: pair[0])
    return [row for _, row in rows]


def bad_records(header, rng, venue, begin, count):
    """Records that are no trades, with the reason that their dead letters must give."""
    key, good = h.trade(header, f"{venue}.BAD-USDT", 1, begin, 1, 1, True)
    other = b"\x00" + (2**31 - 2).to_bytes(4, "big") + good[5:]
    kinds = [
        (key, b"", "NOT_FRAMED"),
        (key, None, "NOT_FRAMED"),
        (key, b"\x07" + good[1:], "BAD_MAGIC"),
        (key, good[:5] + b"\x02" + good[6:], "BAD_MESSAGE_INDEX"),
        (key, other, "UNKNOWN_SCHEMA_ID"),
        (key, good[:-3], "BAD_PROTOBUF"),
        (f"{venue}.OTHER-USDT".encode(), good, "KEY_MISMATCH"),
        (*h.trade(header, "X.BAD-USDT", 1, begin, 1, 1, True), "INVALID_INSTRUMENT"),
        (*h.trade(header, f"{venue}.BAD-USDT", 1, 0, 1, 1, True), "NO_EVENT_TIME"),
        (
            *h.trade(header, f"{venue}.BAD-USDT", 1, int(time.time() * S) + 3600 * S, 1, 1, True),
            "FUTURE_EVENT_TIME",
        ),
        (*h.trade(header, f"{venue}.BAD-USDT", 2**63 + 1, begin, 1, 1, True), "INVALID_TRADE_ID"),
        (*h.trade(header, f"{venue}.BAD-USDT", 1, begin, 0, 1, True), "INVALID_PRICE"),
        (*h.trade(header, f"{venue}.BAD-USDT", 1, begin, 1, 0, True), "INVALID_SIZE"),
        (
            *h.trade(header, f"{venue}.BAD-USDT", 1, begin, 1, 1, True, price_exponent=-99),
            "INVALID_EXPONENT",
        ),
    ]
    return [rng.choice(kinds) for _ in range(count)] + kinds


def expected(records, where):
    """Bars and indicators of the admitted trades, partition by partition."""
    partitions = {}
    for row, (partition, offset) in zip(records, where, strict=True):
        partitions.setdefault(partition, []).append((offset, row))
    bars, indicators, counts = {}, {}, Counter()
    for rows in partitions.values():
        in_order = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
        admitted, duplicates, late, watermarks = reference.classify(in_order)
        counts.update(admitted=len(admitted), duplicates=len(duplicates), late=len(late))
        by_instrument = {}
        for instrument, trade_id, trade_time, price, size, buy in admitted:
            amounts = Decimal(price).scaleb(-8), Decimal(size).scaleb(-8)
            by_instrument.setdefault(instrument, {})[trade_id] = (trade_time, *amounts, buy)
        for instrument, trades in by_instrument.items():
            found = reference.bars(trades, watermarks[instrument])
            for key, bar in found.items():
                bars[instrument, *key] = {
                    k: f"{v:f}" if isinstance(v, Decimal) else v for k, v in bar.items()
                }
            for interval in reference.INTERVALS:
                revisions = reference.indicator_revisions(found, interval)
                for (start, name), value in reference.indicators(found, interval).items():
                    at = instrument, interval, start, name
                    indicators[at] = f"{value:f}", revisions[start]
    return bars, indicators, counts


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(STRIKES, id="all", marks=pytest.mark.soak),
    ],
)
def test_nothing_is_lost_or_wrong_through_kills(harness, kills):
    rng = random.Random(20240808)
    rows = market(rng, harness.venue, harness.start_us)
    records = [(row, *h.trade(harness.header, *row), None) for row in rows]
    for key, value, reason in bad_records(harness.header, rng, harness.venue, harness.start_us, 60):
        records.insert(rng.randrange(len(records)), (None, key, value, reason))
    where = harness.send([(key, value) for _, key, value, _ in records])
    assert len({partition for partition, _ in where}) == 4

    last_batch = len(records) // BATCH
    batches = sorted(
        rng.sample(range(1, last_batch - 1), sum(point not in ARCHIVE for point, _ in kills))
    )
    strikes = [
        f"{point}:{rng.randrange(4) if point in ARCHIVE else batches.pop(0)}:{victim}"
        for point, victim in rng.sample(kills, len(kills))
    ]
    struck = harness.directory / "struck"
    struck.mkdir()
    settings = {
        "SPARK_FAILPOINTS": ",".join(strikes),
        "SPARK_FAILPOINT_DIR": struck,
        "SPARK_MAX_OFFSETS": BATCH,
        "SPARK_TRIGGER": 0,
        "SPARK_ARCHIVE_MAX_OFFSETS": 20_000,
    }

    def through():
        return (
            len(list(struck.iterdir())) == len(strikes)
            and harness.caught_up()
            and all(harness.archived_up_to(t.name) for t in (topics.TRADES, topics.BARS))
        )

    starts, done = 0, False
    while not done:
        starts += 1
        assert starts < 15, harness.tail()
        process = harness.start(**settings)
        try:
            harness.until(lambda: process.poll() is not None or through())  # noqa: B023
            done = process.poll() is None
        finally:
            h.end_group(process)
    assert {path.name for path in struck.iterdir()} == {s.replace(":", "-") for s in strikes}
    restarts = sum(victim != "worker" for _, victim in kills)
    assert starts > restarts, f"driver and JVM were killed {restarts} times"

    trades = [(row, at) for (row, *_), at in zip(records, where, strict=True) if row]
    bars, indicators, counts = expected(*zip(*trades, strict=True))
    assert counts["late"] > 10
    assert counts["duplicates"] > 100
    assert {key[3] for key in indicators if key[1] == "1s"} == {
        "sma/20/", "ema/20/", "vwap/20/", "rsi/14/",
        "bollinger/20/lower", "bollinger/20/middle", "bollinger/20/upper",
    }  # fmt: skip

    assert harness.bar_rows() == bars
    assert harness.bar_events() == bars
    assert harness.indicator_rows() == indicators
    assert harness.indicator_events() == indicators

    letters = harness.dead_letters()
    for (row, key, value, reason), at in zip(records, where, strict=True):
        if row is None:
            assert letters.pop(at) == (reason, key, value or b"")
        else:
            assert at not in letters
    check_archive(harness, dict(zip(where, records, strict=True)))


def check_archive(harness, records):
    """Each offset is in exactly one object, with the bytes that were produced."""
    for topic in (topics.TRADES.name, topics.BARS.name):
        for manifest in harness.manifests(topic):
            assert manifest.faults() == []
        produced = {(p, offset): (key, value) for p, offset, key, value in harness.read(topic)}
        archived = harness.archived_records(topic)
        assert {key[1:]: record for key, record in archived.items()} == produced
        if topic == topics.TRADES.name:
            assert produced == {at: (key, value) for at, (_, key, value, _) in records.items()}
