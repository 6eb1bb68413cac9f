"""Generated trades of a test's venue, and what the application must make of them."""

import random
from collections import Counter
from decimal import Decimal

import reference

S = 1_000_000


def market(harness, seed, begin, seconds=120, count=3_000, instruments=6):
    rng = random.Random(seed)
    times = sorted(rng.randrange(seconds * S) for _ in range(count))
    ids = Counter()
    rows = []
    for time in times:
        instrument = f"{harness.venue}.C{rng.randrange(instruments)}-USDT"
        ids[instrument] += 1
        trade_id = seed * 1_000_000 + ids[instrument]
        price, size = rng.randrange(10**8, 10**9), rng.randrange(1, 10**9)
        row = (instrument, trade_id, harness.start_us + begin * S + time, price, size)
        rows.append((*row, rng.random() < 0.5))
    return rows


def check_bars(harness, rows, where):
    partitions = {}
    for row, at in zip(rows, where, strict=True):
        partitions.setdefault(at[0], []).append((at[1], row))
    expected = {}
    for members in partitions.values():
        admitted, *_, watermarks = reference.classify([row for _, row in sorted(members)])
        for instrument in watermarks:
            trades = {
                row[1]: (row[2], Decimal(row[3]).scaleb(-8), Decimal(row[4]).scaleb(-8), row[5])
                for row in admitted
                if row[0] == instrument
            }
            for key, bar in reference.bars(trades, watermarks[instrument]).items():
                expected[instrument, *key] = {
                    k: f"{v:f}" if isinstance(v, Decimal) else v for k, v in bar.items()
                }
    assert harness.bar_rows() == expected
    assert harness.bar_events() == expected
