"""A book that was cut after some levels stays right while the market leaves what was known."""

import json
import random

import pytest

from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdateKind
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.digest import parse
from coinmesh_sources.inputs import Input
from collector_binance.core.book import BUFFERED_DELTAS
from collector_binance.core.commands import FetchSnapshot
from collector_binance.core.encode import Headers
from collector_binance.core.renewal import KEPT_DELTAS, Renewal
from collector_binance.testing import BEGIN_NS, SYMBOL, Book, Twins

LIMIT = 100
TICK = 10**6
STREAM, REST = "binance/s/1", "binance/s/0"


class Venue:
    """A deep book whose price drifts, and an engine that follows it with cut snapshots."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.middle = 100_000
        self.book = Book()
        for distance in range(1, 3000):
            self.book.bids[(self.middle - distance) * TICK] = 10**8
            self.book.asks[(self.middle + distance) * TICK] = 10**8
        self.engine = Twins(Headers.offline())
        self.events: list = []
        self.now = BEGIN_NS
        self.wanted = 0
        self.give(FrameKind.FRAME_KIND_CONNECT, STREAM, b"", "wss://x/stream")
        control = {"method": "SUBSCRIBE", "params": [f"{SYMBOL.lower()}@depth@100ms"], "id": 1}
        self.give(FrameKind.FRAME_KIND_SUBSCRIPTION, STREAM, json.dumps(control).encode())

    def give(self, kind: int, connection: str, payload: bytes, context: str = "") -> None:
        self.now += 10**6
        records = self.engine.apply(Input(kind, connection, self.now, payload, context, 200))
        self.events += [(topic, parse(topic, value)) for topic, _, value in records]

    def move(self, direction: int) -> bytes:
        """The price goes one tick: the top of one side is taken, the other side follows."""
        up = direction > 0
        taken = min(self.book.asks) if up else max(self.book.bids)
        return self.book.change([(not up, taken, 0), (up, taken, 10**8)])

    def answer(self) -> bytes:
        body = json.loads(self.book.snapshot())
        return json.dumps(body | {side: body[side][:LIMIT] for side in ("bids", "asks")}).encode()

    def top(self) -> tuple[int, int]:
        return max(self.book.bids), min(self.book.asks)

    def asks_for_snapshot(self) -> bool:
        commands, self.engine.commands[:] = self.engine.commands[:], []
        asked = any(isinstance(command, FetchSnapshot) for command in commands)
        self.wanted += asked
        return asked


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_market_that_leaves_the_snapshot_never_leaves_the_book(seed: int, ahead: bool) -> None:
    venue = Venue(seed)
    direction = 1 if seed % 2 else -1
    due: int | None = None
    held: list[bytes] = []  # frames that the stream still owes, while REST is ahead of it
    for step in range(600):
        held.append(venue.move(direction if venue.random.random() < 0.9 else -direction))
        if due is not None and step >= due:
            context = f"GET /api/v3/depth?symbol={SYMBOL}&limit={LIMIT}"
            if not ahead:
                while held:
                    venue.give(FrameKind.FRAME_KIND_MESSAGE, STREAM, held.pop(0))
            venue.give(FrameKind.FRAME_KIND_REST, REST, venue.answer(), context)
            due = None
        if not ahead or venue.random.random() < 0.5:
            while held:
                venue.give(FrameKind.FRAME_KIND_MESSAGE, STREAM, held.pop(0))
        if venue.asks_for_snapshot():
            due = step + venue.random.randrange(1, 6)
        if not held and venue.wanted and due is None:
            book = venue.engine.markets[SYMBOL].book
            assert (book.bids.best()[0], book.asks.best()[0]) == venue.top()
    assert venue.wanted > 3
    assert not [event for topic, event in venue.events if topic == "ingest.gaps.v1"]


def test_a_published_snapshot_reaches_beyond_its_best_prices() -> None:
    venue = Venue(1)
    venue.give(FrameKind.FRAME_KIND_MESSAGE, STREAM, venue.move(1))
    for _ in range(400):
        if venue.asks_for_snapshot():
            context = f"GET /api/v3/depth?symbol={SYMBOL}&limit={LIMIT}"
            venue.give(FrameKind.FRAME_KIND_REST, REST, venue.answer(), context)
        venue.give(FrameKind.FRAME_KIND_MESSAGE, STREAM, venue.move(1))
    books = [event for topic, event in venue.events if topic == "market.books.v1"]
    snapshots = [book for book in books if book.kind == BookUpdateKind.BOOK_UPDATE_KIND_SNAPSHOT]
    assert len(snapshots) > 4
    for snapshot in snapshots:
        assert snapshot.ask_price_units[0] < snapshot.trusted_high_units
        assert snapshot.bid_price_units[0] > snapshot.trusted_low_units


def test_buffered_deltas_are_bounded_while_no_snapshot_comes() -> None:
    """The oldest are forgotten: a snapshot that comes then has to cover them."""
    venue = Venue(1)
    old = venue.answer()
    for number in range(BUFFERED_DELTAS + 100):
        venue.give(FrameKind.FRAME_KIND_MESSAGE, STREAM, venue.move(1 - 2 * (number % 2)))
    book = venue.engine.markets[SYMBOL].book
    assert len(book._buffer) == BUFFERED_DELTAS
    venue.engine.commands.clear()
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit={LIMIT}"
    venue.give(FrameKind.FRAME_KIND_REST, REST, old, target)
    assert (book.state, venue.asks_for_snapshot()) == ("buffering", True)
    venue.give(FrameKind.FRAME_KIND_REST, REST, venue.answer(), target)
    assert (book.state, book.last_id, len(book._buffer)) == ("live", venue.book.update_id, 0)


def test_deltas_kept_for_a_renewal_are_bounded() -> None:
    renewal = Renewal[int](since=10)
    for number in range(11, 11 + KEPT_DELTAS + 5):
        renewal.add(number, number)
    assert (len(renewal.deltas), renewal.since) == (KEPT_DELTAS, 15)
    assert renewal.deltas[0] == (16, 16)
