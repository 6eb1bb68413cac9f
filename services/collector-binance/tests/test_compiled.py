"""The compiled core against the Python one: the same events byte for byte, and the same state.

`Twins` compares them after each input; the engine's other tests run on it too.
"""

import itertools
import json
import shutil
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input, Record
from coinmesh_sources.recorder import FrameRecorder
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.compiled import load
from collector_binance.core.encode import Headers
from collector_binance.testing import (
    BEGIN_NS,
    SYMBOL,
    Book,
    CaptureTwins,
    Twins,
    state,
    text,
    trade,
)

LINKS = ["binance/s/1", "binance/s/2"]
STREAMS = [f"{SYMBOL.lower()}@{s}" for s in ("trade", "bookTicker", "depth@100ms", "kline_1m")]
DEPTH = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
PRICE = 100 * 10**8


class Pair:
    """Both cores behind one subscribed connection, with a book that is live."""

    def __init__(self, unit: str = "MILLISECOND") -> None:
        self.engine = Twins(Headers.offline())
        self.now = BEGIN_NS
        self.url = f"wss://x/stream?timeUnit={unit}"
        self.connect(LINKS[0])
        self.book = Book()
        self.send(self.book.change([(True, PRICE - 10**8, 5), (False, PRICE + 10**8, 7)]))
        self.snapshot()
        self.send(trade(10))

    def give(self, kind: FrameKind.ValueType, link: str, payload: bytes, context: str = "") -> None:
        self.now += 1_000_000
        self.engine.apply(Input(kind, link, self.now, payload, context, 200))

    def connect(self, link: str) -> None:
        self.give(FrameKind.FRAME_KIND_CONNECT, link, b"", self.url)
        control = {"method": "SUBSCRIBE", "params": STREAMS, "id": 1}
        self.give(FrameKind.FRAME_KIND_SUBSCRIPTION, link, json.dumps(control).encode())

    def send(self, frame: bytes, link: str = LINKS[0]) -> None:
        self.give(FrameKind.FRAME_KIND_MESSAGE, link, frame)

    def snapshot(self) -> None:
        self.give(FrameKind.FRAME_KIND_REST, "rest", self.book.snapshot(), DEPTH)


def usual(book: Book) -> list[bytes]:
    """A frame of each stream that continues what `Pair` begins with."""
    book.change([])
    depth = book.change([(True, PRICE - 2 * 10**8, 3), (False, PRICE + 10**8, 0)], 2)
    return [trade(11), book.quote(), depth]


def test_a_compiler_means_a_compiled_core() -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler here: the Python core is all there is")
    assert load() is not None


def test_usual_frames_never_reach_the_python_core(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()

    def refuse(*_: object) -> list[Record]:
        raise AssertionError("left to Python")

    frames = usual(pair.book)
    pair.send(b'{"stream":"btcusdt@depth@100ms","data":' + depth_data(1002, 1002) + b"}")
    with monkeypatch.context() as patch:
        patch.setattr(pair.engine.twin, "process_any", refuse)
        for frame in frames:
            pair.now += 1
            pair.engine.twin.process(frame, pair.now, LINKS[0])
    assert pair.engine.twin.counters.dead_letters == {}


def depth_data(first: int, last: int) -> bytes:
    return b'{"e":"depthUpdate","E":1723161601002,"s":"%s","U":%d,"u":%d,"b":[],"a":[]}' % (
        SYMBOL.encode(),
        first,
        last,
    )


@pytest.mark.slow
def test_the_recorded_capture_makes_the_same_bytes(capture_lines: list[bytes]) -> None:
    engines = [CaptureEngine(Headers.offline(), fast=fast) for fast in (None, load())]
    given = [_input(line) for line in capture_lines]
    for index, each in enumerate(given):
        ours, theirs = (engine.apply(each) for engine in engines)
        assert theirs == ours, f"line {index + 1}: {each.payload[:200]!r}"
    assert state(engines[1]) == state(engines[0])
    assert engines[0].markets[SYMBOL].book.audit.matches > 1000


def _input(line: bytes) -> Input:
    stamp, _, frame = line.partition(b" ")
    if frame.startswith(b'{"lastUpdateId"'):
        rest = FrameKind.FRAME_KIND_REST
        return Input(rest, "binance/0", int(stamp), frame, f"{DEPTH[:-4]}5000", 200)
    return Input(FrameKind.FRAME_KIND_MESSAGE, "binance/1", int(stamp), frame)


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(0, 2**62), st.integers(0, 2**40))
def test_recorded_frames_are_the_same_bytes(frames: list[bytes], now: int, sequence: int) -> None:
    fast = load()
    recorders = [
        FrameRecorder("binance", 7, element=each) for each in (None, fast and fast.element)
    ]
    batches = []
    for recorder in recorders:
        for number, frame in enumerate(frames):
            recorder.message(frame, now + number, LINKS[0], sequence + number)
        batches.append(recorder.flush())
    assert batches[1] == batches[0]


@pytest.mark.parametrize(
    "frame",
    [
        trade(12, size=10**27 + 1),
        Book(update_id=1010).change([(True, PRICE - 2 * 10**8, 10**27 + 1)]),
        Book(update_id=1010).change([], -2),
    ],
)
def test_what_jumps_ahead_and_cannot_be_held_is_refused_when_it_comes(frame: bytes) -> None:
    pair = Pair()
    pair.connect(LINKS[1])
    pair.send(frame, LINKS[1])
    assert sum(pair.engine.counters.dead_letters.values()) == 1
    pair.engine.tick(pair.now + 10**10)
    assert sum(pair.engine.counters.dead_letters.values()) == 1


def test_both_cores_give_a_snapshot_to_the_same_symbol() -> None:
    """Quotes are nearer to it than the books' deltas are, and only one core keeps them."""
    engine = CaptureTwins(Headers.offline())
    near, far = Book("AUSDT", update_id=1000), Book("BUSDT", update_id=1000)
    frames = [
        near.change([(True, PRICE, 5), (False, PRICE + 1, 5)]),
        far.change([(True, 3 * PRICE // 2, 5), (False, 3 * PRICE // 2 + 1, 5)]),
    ]
    quoted = Book("AUSDT", {5 * PRICE // 2: 5}, {5 * PRICE // 2 + 1: 5}, update_id=1001)
    snapshot = Book("", {12 * PRICE // 5: 5}, {12 * PRICE // 5 + 1: 5}, update_id=1000)
    for number, frame in enumerate([*frames, quoted.quote(), snapshot.snapshot()]):
        engine.process(frame, BEGIN_NS + number, LINKS[0])
    states = {symbol: market.book.state for symbol, market in engine.markets.items()}
    assert states == {"AUSDT": "buffering", "BUSDT": "live"}


@pytest.mark.parametrize(
    ("number", "is_held"),
    [("1" + "0" * 29, True), ("9" * 30, False), ("1" + "0" * 30, False)],
    ids=["longest", "without-a-common-scale", "too-long"],
)
def test_long_numbers_are_held_or_refused_alike(number: str, is_held: bool) -> None:
    """A number has at most 30 characters, so that its units fit 127 bits."""
    pair = Pair()
    for price, size in ((number, "1.00000000"), ("98.00000000", number)):
        depth = json.loads(pair.book.change([]))
        depth["data"]["b"] = [[price, size]]
        quote = json.loads(pair.book.quote())
        quote["data"] |= {"b": price, "B": size, "a": price, "A": size}
        deal = json.loads(trade(pair.engine.markets[SYMBOL].trades.last_id or 0))
        deal["data"] |= {"t": deal["data"]["t"] + 1, "p": price, "q": size}
        for frame in (depth, quote, deal):
            pair.send(json.dumps(frame, separators=(",", ":")).encode())
        pair.snapshot()
    assert bool(pair.engine.counters.dead_letters) is not is_held
    for engine in (pair.engine, pair.engine.twin):
        trades = engine.markets[SYMBOL].trades
        assert trades.last_id == (12 if is_held else 10)


# What JSON readers differ in, put anywhere into a usual frame.
OTHER = (
    b' |\t|0|00|1|9|-|+|.|,|"|\\|\\u0042|\\/|{|}|[|]|null|true|false|1e1|99999999999|\x00|\xff|'
    b'"":""|\xe5\xb8\x81|,"M":true|12345678901234567890|4611686018427387904|4503599627370496'
).split(b"|")


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(OTHER)), max_size=3),
    st.sampled_from(["MILLISECOND", "MICROSECOND"]),
)
def test_every_other_spelling_is_taken_or_refused_alike(
    which: int, edits: list[tuple[float, int, bytes]], unit: str
) -> None:
    pair = Pair(unit)
    frame = bytearray(usual(pair.book)[which])
    for place, cut, put in edits:
        at = int(place * len(frame))
        frame[at : at + cut] = put
    pair.send(bytes(frame))
    pair.send(trade(12))


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("cut", [0, 1])
def test_edits_wherever_a_number_or_a_mark_begins_or_ends(which: int, cut: int) -> None:
    size = len(usual(Book())[which])
    for at, put in itertools.product(range(size), b"0|00|9| |-|.|1e1".split(b"|")):
        pair = Pair()
        frame = usual(pair.book)[which]
        if frame[at - 1 : at].isalnum() and frame[at : at + 1].isalnum():
            continue
        pair.send(frame[:at] + put + frame[at + cut :])


units = st.one_of(
    st.integers(1, 10**10),
    st.sampled_from([0, 1, 10**18 - 1, 10**18, 2**63 - 1, 2**63, 10**19, 10**21, 10**27 + 1]),
)


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[bool, int, int]]:
    """Levels on their sides of the price, of sizes of every length."""
    return [
        (is_bid, PRICE - 10**8 * step if is_bid else PRICE + 10**8 * step, draw(units))
        for is_bid, step in draw(
            st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=8)
        )
    ]


Step = Callable[[Pair], None]


def _depth(levels: list[tuple[bool, int, int]], ids: int, *, told: bool = True) -> Step:
    def step(pair: Pair) -> None:
        frame = pair.book.change(levels, ids)
        if told:
            pair.send(frame)

    return step


def _quote(size: int, ahead: int) -> Step:
    def step(pair: Pair) -> None:
        frame = json.loads(pair.book.quote())
        frame["data"]["u"] += ahead
        if size:
            frame["data"]["B"] = text(size)
        pair.send(json.dumps(frame, separators=(",", ":")).encode())

    return step


steps = st.one_of(
    st.builds(_depth, changes(), st.integers(1, 3)),
    st.builds(_depth, changes(), st.integers(1, 3), told=st.sampled_from([True] * 9 + [False])),
    st.builds(_quote, st.just(0), st.integers(-1, 1)),
    st.builds(_quote, units, st.integers(-1, 2)),
    st.builds(
        lambda n, price, size: lambda pair: pair.send(trade(n, price, size)),
        st.integers(9, 30),
        units,
        units,
    ),
    st.builds(
        lambda n, link: lambda pair: pair.send(trade(n), link),
        st.integers(9, 30),
        st.sampled_from(LINKS),
    ),
    st.just(Pair.snapshot),
    st.just(lambda pair: pair.connect(LINKS[1])),
    st.just(lambda pair: pair.give(FrameKind.FRAME_KIND_DISCONNECT, LINKS[1], b"", "closed")),
    st.builds(
        lambda seconds: lambda pair: setattr(pair, "now", pair.now + seconds * 10**9),
        st.sampled_from([1, 61]),
    ),
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40))
def test_any_history_leaves_both_cores_in_the_same_state(history: list[Step]) -> None:
    """Holes, repetition, two connections, resyncs, audits that differ, numbers beyond 64 bits."""
    pair = Pair()
    for step in history:
        step(pair)
        pair.engine.tick(pair.now)
