"""The state machines against models: random loss, repetition and disorder; random frames."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.digest import parse
from coinmesh_sources.inputs import Input, Record
from collector_binance.core.commands import FetchSnapshot, FetchTrades
from collector_binance.core.encode import Headers
from collector_binance.testing import BEGIN_NS, SYMBOL, Book, CaptureTwins, past_trade, text, trade

TRADES, BOOKS, GAPS = "market.trades.v1", "market.books.v1", "ingest.gaps.v1"
LINK = "binance/test/1"


class Driver:
    """An engine whose commands a model exchange answers."""

    def __init__(self) -> None:
        self.engine = CaptureTwins(Headers.offline())
        self.events: dict[str, list[Any]] = {TRADES: [], BOOKS: [], GAPS: []}
        self.now = BEGIN_NS

    def take(self, records: list[Record] | None) -> None:
        for topic, _, value in records or []:
            self.events.setdefault(topic, []).append(parse(topic, value))

    def message(self, frame: bytes) -> None:
        self.now += 1_000_000
        self.take(self.engine.process(frame, self.now, LINK))

    def rest(self, context: str, body: bytes, status: int = 200) -> None:
        given = Input(FrameKind.FRAME_KIND_REST, "rest", self.now, body, context, status)
        self.take(self.engine.apply(given))

    def commands(self) -> list[Any]:
        commands = self.engine.commands[:]
        self.engine.commands.clear()
        return commands

    def gaps(self) -> dict[str, Any]:
        """The last state of each gap."""
        return {gap.gap_id: gap for gap in self.events[GAPS]}


@st.composite
def deliveries(draw: st.DrawFn, most: int = 30) -> list[int]:
    """Numbers 0 to n, some lost, some twice, some late."""
    count = draw(st.integers(5, most))
    numbers = [n for n in range(count) if n in (0, count - 1) or draw(st.integers(0, 9)) > 0]
    numbers += draw(st.lists(st.sampled_from(numbers), max_size=5))
    shift = draw(st.randoms(use_true_random=False))
    return [0, *sorted(numbers, key=lambda n: n + shift.random() * draw(st.integers(0, 4)))]


@settings(max_examples=60, deadline=None)
@given(deliveries(), st.sets(st.integers(0, 60), max_size=4), st.integers(1, 7))
def test_trades_are_complete_or_their_loss_is_told(
    numbers: list[int], lost: set[int], per_answer: int
) -> None:
    """Whatever is delivered, and whatever the history lacks: each id once, or in a gap."""
    driver = Driver()
    last = max(numbers)
    for number in numbers:
        driver.message(trade(1000 + number))
        for command in driver.commands():
            assert isinstance(command, FetchTrades)
            _answer(driver, command, lost, last, per_answer)
    ids = [event.trade_id - 1000 for event in driver.events[TRADES]]
    assert len(ids) == len(set(ids))
    absent = set(range(last + 1)) - set(ids)
    assert absent <= lost - set(numbers)
    for gap in driver.gaps().values():
        span = range(gap.ids.first - 1000, gap.ids.last - 1000 + 1)
        missing = [n for n in span if n in absent]
        assert gap.state == (4 if missing else 2), gap
        assert gap.repaired_count == len(span) - len(missing)
    told = {
        n
        for gap in driver.gaps().values()
        for n in range(gap.ids.first - 1000, gap.ids.last - 1000 + 1)
    }
    assert absent <= told
    revisions = [(gap.gap_id, gap.revision) for gap in driver.events[GAPS]]
    assert len(revisions) == len(set(revisions))


def _answer(
    driver: Driver, command: FetchTrades, lost: set[int], last: int, per_answer: int
) -> None:
    """historicalTrades, with less than was asked for; follow-up requests included."""
    pending = [command]
    while pending:
        asked = pending.pop(0)
        # The venue's history reaches further than what has been delivered.
        known = [n for n in range(asked.first_id - 1000, last + 3) if n not in lost]
        body = [past_trade(1000 + n) for n in known[: min(per_answer, asked.limit)]]
        context = f"GET /api/v3/historicalTrades?symbol={SYMBOL}&fromId={asked.first_id}&limit=9"
        driver.rest(context, json.dumps(body).encode())
        pending += driver.commands()


def _frames(rng: random.Random, book: Book, count: int) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Depth frames and, after each, the book's truth."""
    frames: list[bytes] = []
    truth: list[dict[str, Any]] = []
    for _ in range(count):
        changes = [
            (rng.random() < 0.5, (100 + rng.randrange(-20, 20)) * 10**8, rng.choice([0, 1, 5]))
            for _ in range(rng.randrange(0, 4))
        ]
        changes = [
            (price < 100 * 10**8, price, size) for _, price, size in changes if price != 100 * 10**8
        ]
        frames.append(book.change(changes, rng.randrange(1, 4)))
        truth.append({"u": book.update_id, "bids": dict(book.bids), "asks": dict(book.asks)})
    return frames, truth


@settings(max_examples=60, deadline=None)
@given(
    st.randoms(use_true_random=False),
    deliveries(),
    st.integers(0, 6),
    st.integers(1, 6),
)
def test_the_book_equals_the_venues_whenever_it_is_live(
    rng: random.Random, numbers: list[int], snapshot_age: int, every: int
) -> None:
    """Loss, repetition, disorder, old snapshots: a live book is right, a wrong one never serves."""
    driver = Driver()
    frames, truth = _frames(rng, Book(), max(numbers) + 1)
    right = {each["u"]: each for each in truth}
    wanted = False
    for step, number in enumerate(numbers):
        driver.message(frames[number])
        wanted = wanted or any(isinstance(c, FetchSnapshot) for c in driver.commands())
        if wanted and step % every == 0:
            seen = max(numbers[: step + 1])
            state = truth[max(0, seen - rng.randrange(0, snapshot_age + 1))]
            wanted = False
            driver.rest(f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000", _snapshot(state))
            wanted = any(isinstance(c, FetchSnapshot) for c in driver.commands())
        book = driver.engine.markets[SYMBOL].book
        if book.state == "live":
            assert book.last_id is not None
            expected = right[book.last_id]
            assert book.bids.levels == expected["bids"]
            assert book.asks.levels == expected["asks"]
            best_bid = max(expected["bids"], default=0)
            assert book.top[0] == best_bid
    _check_published(driver, right)
    _check_open_gaps(driver)
    # Whatever came before, a snapshot of the newest state makes the book live: no check is void.
    newest = truth[max(numbers)]
    driver.rest(f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000", _snapshot(newest))
    book = driver.engine.markets[SYMBOL].book
    assert (book.state, book.last_id) == ("live", newest["u"])
    assert (book.bids.levels, book.asks.levels) == (newest["bids"], newest["asks"])
    _check_published(driver, right)
    _check_open_gaps(driver)


def _check_open_gaps(driver: Driver) -> None:
    # A stale book is exactly what has an open gap; one that was never live has none to report.
    open_books = [gap for gap in driver.gaps().values() if gap.state == 1]
    state = driver.engine.markets[SYMBOL].book.state
    assert len(open_books) == (1 if state == "stale" else 0)


def _check_published(driver: Driver, right: dict[int, dict[str, Any]]) -> None:
    """A reader that starts at a snapshot and applies what continues it has the venue's book."""
    bids: dict[int, int] = {}
    asks: dict[int, int] = {}
    at: int | None = None
    for event in driver.events[BOOKS]:
        sides = (
            (bids, event.bid_price_units, event.bid_size_units),
            (asks, event.ask_price_units, event.ask_size_units),
        )
        if event.kind == 2:
            bids.clear()
            asks.clear()
        else:
            assert at is not None
            assert event.first_update_id <= at + 1 <= event.last_update_id
        for side, prices, sizes in sides:
            for price, size in zip(prices, sizes, strict=True):
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
        at = event.last_update_id
        if not event.stale:
            assert (bids, asks) == (right[at]["bids"], right[at]["asks"])


def _snapshot(state: dict[str, Any]) -> bytes:
    bids = [[text(p), text(s)] for p, s in sorted(state["bids"].items(), reverse=True)]
    asks = [[text(p), text(s)] for p, s in sorted(state["asks"].items())]
    return json.dumps({"lastUpdateId": state["u"], "bids": bids, "asks": asks}).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with bytes cut, changed or put in; or values of other types."""
    book = Book()
    frame = bytearray(draw(st.sampled_from([trade(5), book.change([(True, 5, 5)]), book.quote()])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        frame[at : at + draw(st.integers(0, 6))] = draw(st.binary(max_size=4))
    return bytes(frame)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
letters = st.sampled_from("e E s S t T u U b B a A p q m M k id result code stream data".split())


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        damaged()
        | st.binary(max_size=60)
        | st.dictionaries(letters, json_values).map(lambda d: json.dumps(d).encode())
        | st.tuples(
            st.sampled_from(["trade", "bookTicker", "depth@100ms", "kline_1m"]),
            st.dictionaries(letters, json_values),
        ).map(lambda pair: json.dumps({"stream": f"btcusdt@{pair[0]}", "data": pair[1]}).encode()),
        max_size=8,
    )
)
def test_no_frame_crashes_the_core_and_good_ones_go_on(bad: list[bytes]) -> None:
    driver = Driver()
    driver.message(trade(1))
    for frame in bad:
        driver.message(frame)
    driver.message(trade(2**40))
    assert driver.events[TRADES][-1].trade_id == 2**40
    letters_sent = driver.events.get("ingest.dlq.v1", [])
    assert len({letter.event_id for letter in letters_sent}) == len(letters_sent)
    for letter in letters_sent:
        assert letter.reason
        assert letter.value in bad
