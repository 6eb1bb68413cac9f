"""A generated market: streams, snapshots, trades and klines agree at every moment."""

import itertools
import tempfile
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from coinmesh_simulators.exchange.bars import INTERVALS, window
from coinmesh_simulators.testing import BEGIN, Bench, Listener, LocalBook

SYMBOL = "XRPUSDT"
STREAMS = [
    f"xrpusdt@{kind}"
    for kind in ("trade", "aggTrade", "bookTicker", "depth@100ms", "depth", "kline_1s", "kline_1m")
]


def run(seed: int, gaps: list[int], snapshot_at: int) -> tuple[Bench, Listener, dict, int]:
    bench = Bench(Path(tempfile.mkdtemp()), SYMBOL, seed)
    listener = Listener(bench.hub, STREAMS)
    snapshot: dict = {}
    for count, gap in enumerate(gaps):
        bench.step(gap)
        if count == snapshot_at % len(gaps):
            snapshot = bench.markets[SYMBOL].snapshot(5000)
            at_snapshot = len(listener.frames)
    market = bench.markets[SYMBOL]
    market.tenth(bench.now)
    market.second(bench.now)
    return bench, listener, snapshot, at_snapshot


markets = given(
    seed=st.integers(0, 2**32),
    gaps=st.lists(st.integers(1, 700_000), min_size=30, max_size=200),
    snapshot_at=st.integers(0, 1000),
)


@settings(max_examples=40, deadline=None)
@markets
def test_snapshot_and_stream_make_the_book_and_every_quote_fits_it(seed, gaps, snapshot_at):
    bench, listener, snapshot, at_snapshot = run(seed, gaps, snapshot_at)
    market = bench.markets[SYMBOL]
    for kind in ("xrpusdt@depth@100ms", "xrpusdt@depth"):
        book = LocalBook(snapshot)
        quotes: dict[int, tuple] = {}
        last = None
        for position, (stream, data) in enumerate(listener.frames):
            if stream == "xrpusdt@bookTicker":
                quotes[data["u"]] = ((data["b"], data["B"]), (data["a"], data["A"]))
            if stream != kind:
                continue
            assert last is None or data["U"] == last + 1
            last = data["u"]
            book.apply(data)
            if position > at_snapshot:
                known = [u for u in quotes if u <= book.update_id]
                if known:
                    assert book.top() == quotes[max(known)]
        truth = market.snapshot(100_000)
        assert book.update_id == truth["lastUpdateId"]
        assert book.sides == [dict(map(tuple, truth[side])) for side in ("bids", "asks")]
    bench.store.close()


def bars_of(trades: list[dict], interval: str, unit: int) -> dict[int, dict]:
    bars: dict[int, dict] = {}
    for trade in trades:
        price, size = Decimal(trade["p"]), Decimal(trade["q"])
        start = window(interval, trade["T"] * unit)[0] // unit
        bar = bars.setdefault(
            start,
            {"o": price, "h": price, "l": price, "v": 0, "q": 0, "V": 0, "Q": 0, "n": 0,
             "f": trade["t"]},
        )  # fmt: skip
        bar["h"], bar["l"], bar["c"] = max(bar["h"], price), min(bar["l"], price), price
        bar["v"] += size
        bar["q"] += price * size
        bar["n"] += 1
        bar["L"] = trade["t"]
        if not trade["m"]:
            bar["V"] += size
            bar["Q"] += price * size
    return bars


@settings(max_examples=40, deadline=None)
@markets
def test_klines_are_exactly_what_the_trades_make(seed, gaps, snapshot_at):
    bench, listener, _, _ = run(seed, gaps, snapshot_at)
    trades = [data for stream, data in listener.frames if stream == "xrpusdt@trade"]
    klines = bench.markets[SYMBOL].klines
    for interval in ("1s", "1m"):
        expected = bars_of(trades, interval, 1)
        closed = [
            data["k"]
            for stream, data in listener.frames
            if stream == f"xrpusdt@kline_{interval}" and data["k"]["x"]
        ]
        assert len({bar["t"] for bar in closed}) == len(closed)
        for bar in closed:
            if bar["n"]:
                assert {k: Decimal(bar[k]) for k in expected[bar["t"]]} == expected[bar["t"]]
            else:
                assert bar["t"] not in expected
                assert bar["o"] == bar["h"] == bar["l"] == bar["c"]
    for interval in INTERVALS:
        expected = bars_of(trades, interval, 1)
        rows = [bar.row(1) for bar in klines.rows(interval, 0, 1 << 61, 1000)]
        assert [b[0] for a, b in itertools.pairwise(rows)] == [
            a[6] + 1 for a, b in itertools.pairwise(rows)
        ]
        for row in rows:
            if row[8]:
                bar = expected.pop(row[0])
                shown = [bar[k] for k in ("o", "h", "l", "c", "v", "q", "n", "V", "Q")]
                assert [Decimal(row[i]) for i in (1, 2, 3, 4, 5, 7, 8, 9, 10)] == shown
        assert not expected
    bench.store.close()


@settings(max_examples=20, deadline=None)
@markets
def test_trades_have_contiguous_ids_and_make_the_aggregates(seed, gaps, snapshot_at):
    bench, listener, _, _ = run(seed, gaps, snapshot_at)
    trades = {data["t"]: data for stream, data in listener.frames if stream == "xrpusdt@trade"}
    assert list(trades) == list(range(1, len(trades) + 1))
    kept = bench.store.trades_from(bench.markets[SYMBOL].key, 0, 10_000)
    assert [row.id for row in kept] == list(trades)
    covered: list[int] = []
    last = 0
    for stream, data in listener.frames:
        if stream != "xrpusdt@aggTrade":
            continue
        assert data["a"] == last + 1
        last = data["a"]
        ids = range(data["f"], data["l"] + 1)
        covered += ids
        assert sum(Decimal(trades[i]["q"]) for i in ids) == Decimal(data["q"])
        assert {(trades[i]["p"], trades[i]["T"], trades[i]["m"]) for i in ids} == {
            (data["p"], data["T"], data["m"])
        }
    assert covered == list(trades)
    bench.store.close()


def test_the_same_seed_makes_the_same_market(bench):
    frames = []
    for _ in range(2):
        made = bench("BTCUSDT,ETHUSDT", 5)
        listener = Listener(made.hub, ["btcusdt@trade", "ethusdt@depth@100ms"])
        for _ in range(300):
            made.step(20_000)
        frames.append(listener.messages)
    assert frames[0] == frames[1]
    assert frames[0]


def test_times_are_published_in_the_unit_asked_for(bench):
    made = bench("BTCUSDT", 2)
    micro = Listener(made.hub, ["btcusdt@trade", "btcusdt@kline_1s"], micro=True)
    milli = Listener(made.hub, ["btcusdt@trade", "btcusdt@kline_1s"], micro=False)
    for _ in range(200):
        made.step(50_000)
    assert len(micro.frames) == len(milli.frames) > 50
    for (_, fine), (_, coarse) in zip(micro.frames, milli.frames, strict=True):
        assert fine["E"] // 1000 == coarse["E"]
        assert fine["E"] >= BEGIN
        if "k" in fine:
            assert (fine["k"]["t"] // 1000, fine["k"]["T"] // 1000) == (
                coarse["k"]["t"],
                coarse["k"]["T"],
            )
