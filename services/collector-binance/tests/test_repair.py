"""Repair of trade gaps: refusals are retried for hours, and only what is certain is given up."""

import json
from typing import Any

import pytest
from engine_bench import GAPS, REST, STREAMS, TRADES, A, B, Bench

from collector_binance.core import session, trades
from collector_binance.core.commands import FetchSnapshot, FetchTrades
from collector_binance.core.trades import GIVE_UP_ATTEMPTS, GIVE_UP_NS
from collector_binance.testing import SYMBOL, Book, past_trade, trade

SECOND = 10**9


@pytest.fixture
def bench() -> Bench:
    """Trades 2 to 3 and 5 to 6 are missing."""
    bench = Bench()
    bench.open()
    for number in (1, 4, 7):
        bench.send(trade(number))
    assert bench.commands() == [FetchTrades(SYMBOL, 2, 2)]
    return bench


def answer(bench: Bench, first: int, body: Any, status: int = 200) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    target = f"GET /api/v3/historicalTrades?symbol={SYMBOL}&fromId={first}&limit=2"
    bench.give("REST", REST, text, target, status)


def states(bench: Bench) -> dict[int, tuple[int, str]]:
    """State and detail of each gap, by its first id."""
    return {gap.ids.first: (gap.state, gap.detail) for gap in bench.of(GAPS)}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"code":-1121}'),
        (500, b""),
        (0, b"timed out"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
    ],
)
def test_refused_repair_stays_open_and_is_retried(bench: Bench, status: int, body: bytes) -> None:
    for _ in range(12):
        answer(bench, 2, body, status)
        # The other gap is repaired while this one waits.
        for wanted in bench.commands():
            assert wanted.first_id == 5
            answer(bench, 5, [past_trade(5), past_trade(6)])
        deadline = bench.engine.deadline
        assert deadline is not None
        assert 0 < deadline - bench.now <= 300 * SECOND
        bench.now = deadline
        bench.give("TICK")
        assert bench.commands() == [FetchTrades(SYMBOL, 2, 2)]
    state, detail = states(bench)[2]
    assert state == 1
    assert detail != "2 trades after id 1 did not come"
    assert states(bench)[5][0] == 2
    answer(bench, 2, [past_trade(2), past_trade(3)])
    assert states(bench)[2][0] == 2
    assert sorted(event.trade_id for event in bench.of(TRADES)) == list(range(1, 8))


def retry(bench: Bench) -> None:
    """Let the next deferred repair become due."""
    assert bench.engine.deadline is not None
    bench.now = bench.engine.deadline
    bench.give("TICK")


def test_clock_that_is_set_forward_gives_up_no_repair(bench: Bench) -> None:
    answer(bench, 2, b"no", 400)
    answer(bench, 5, [past_trade(5), past_trade(6)])
    bench.now += 2 * GIVE_UP_NS
    bench.give("TICK")
    answer(bench, 2, b"no", 400)
    assert states(bench)[2][0] == 1
    for _ in range(GIVE_UP_ATTEMPTS - 2):
        retry(bench)
        answer(bench, 2, b"no", 400)
    assert states(bench)[2][0] == 4


@pytest.mark.parametrize(
    ("status", "detail"), [(503, "HTTP 503: down"), (0, "no usable answer: down")]
)
def test_gap_states_why_its_repair_waits(bench: Bench, status: int, detail: str) -> None:
    answer(bench, 2, b"down", status)
    assert states(bench)[2] == (1, detail)


def test_repair_is_given_up_after_hours_and_reopens_on_request(bench: Bench) -> None:
    begin = bench.now
    answer(bench, 2, b"no", 400)
    answer(bench, 5, [past_trade(5), past_trade(6)])
    while states(bench)[2][0] == 1:
        retry(bench)
        answer(bench, 2, b"no", 400)
    assert GIVE_UP_NS <= bench.now - begin < 1.1 * GIVE_UP_NS
    assert states(bench)[2][0] == 4
    lost = next(gap for gap in bench.of(GAPS) if gap.state == 4)
    payload = json.dumps({"symbol": SYMBOL, "gap_id": lost.gap_id}).encode()
    bench.commands()
    bench.give("SUBSCRIPTION", REST, payload, "retry-gap")
    assert bench.commands() == [FetchTrades(SYMBOL, 2, 2)]
    answer(bench, 2, [past_trade(2), past_trade(3)])
    of_gap = [gap for gap in bench.of(GAPS) if gap.gap_id == lost.gap_id]
    assert [gap.state for gap in of_gap][-3:] == [4, 1, 2]
    revisions = [gap.revision for gap in of_gap]
    assert revisions == sorted(set(revisions))


def test_backfill_repairs_a_gap_that_was_given_up(bench: Bench) -> None:
    answer(bench, 2, [past_trade(4)])  # the history lacks 2 and 3
    answer(bench, 5, [past_trade(5), past_trade(6)])
    assert states(bench)[2][0] == 4
    trades = bench.engine.markets[SYMBOL].trades
    (lost,) = trades.given_up
    records = len(bench.of(GAPS))
    payload = json.dumps({"symbol": SYMBOL, "spans": [[2, 3]]}).encode()
    bench.now += 1_000_000
    bench.give("SUBSCRIPTION", REST, payload, "backfill")
    answer(bench, 2, [past_trade(2), past_trade(3)])
    later = bench.of(GAPS)[records:]
    assert [(gap.gap_id == lost.gap_id, gap.state) for gap in later] == [
        (False, 1),
        (False, 2),
        (True, 2),
    ]
    assert (list(trades.given_up), trades.open_gaps) == ([], [])
    assert sorted(event.trade_id for event in bench.of(TRADES)) == list(range(1, 8))
    assert trades._lost_because == {}


def test_oldest_of_too_many_gaps_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trades, "MAX_OPEN_GAPS", 2)
    bench.send(trade(9))
    detail = "2 of 2 trades are lost: more than 2 gaps are open"
    assert states(bench)[2] == (4, detail)
    assert [states(bench)[first][0] for first in (5, 8)] == [1, 1]
    position = next(iter(bench.engine.positions()))
    assert [gap.first for gap in position.gaps] == [5, 8, 2]


def test_history_that_begins_later_gives_up_only_what_it_skipped(bench: Bench) -> None:
    answer(bench, 2, [past_trade(3), past_trade(4)])
    assert states(bench)[2] == (4, "1 of 2 trades are lost: the venue's history lacks them")
    assert states(bench)[5][0] == 1


def test_refusal_concerns_the_requested_gap_only(bench: Bench) -> None:
    """While 5 to 6 are requested, an older gap is opened by a backfill."""
    answer(bench, 2, [past_trade(2), past_trade(3)])
    assert bench.commands() == [FetchTrades(SYMBOL, 5, 2)]
    payload = json.dumps({"symbol": SYMBOL, "spans": [[1, 1]]}).encode()
    bench.give("SUBSCRIPTION", REST, payload, "backfill")
    answer(bench, 5, b"no", 400)
    assert "HTTP 400" in states(bench)[5][1]
    assert "HTTP 400" not in states(bench)[1][1]


def test_refused_snapshot_backs_off_without_dead_letters() -> None:
    bench = Bench()
    bench.open()
    bench.send(Book().change([(True, 5, 5)]))
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    for attempt in range(5):
        assert bench.commands() == [FetchSnapshot(SYMBOL, False, attempt)]
        bench.give("REST", REST, b"{}", target, 400)
    assert bench.of("ingest.dlq.v1") == []


def test_snapshot_is_requested_only_while_a_connection_carries_the_book() -> None:
    bench = Bench()
    bench.open()
    bench.send(Book().change([(True, 5, 5)]))
    assert bench.commands() == [FetchSnapshot(SYMBOL, False)]
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    bench.give("REST", REST, b"{}", target, 400)
    assert bench.commands() == [FetchSnapshot(SYMBOL, False, 1)]
    bench.give("DISCONNECT", context="reset by peer")
    bench.give("REST", REST, b"{}", target, 400)
    assert bench.commands() == []
    bench.open(B)
    assert bench.commands() == [FetchSnapshot(SYMBOL, False)]


def test_book_that_cannot_be_published_requests_a_snapshot() -> None:
    """One size beyond 64 bits and one of a single unit have no common scale."""
    bench = Bench()
    bench.open()
    book = Book()
    bench.send(book.change([(True, 99 * 10**8, 5 * 10**20), (False, 101 * 10**8, 10**21)]))
    bench.commands()
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    bench.give("REST", REST, book.snapshot(), target)
    bench.send(book.change([(True, 98 * 10**8, 1)]))
    book.change([(True, 97 * 10**8, 1)])
    bench.send(book.change([(True, 96 * 10**8, 1)]))
    assert bench.of("ingest.dlq.v1")
    assert bench.commands() == [FetchSnapshot(SYMBOL, True)]


def unpublishable(book: Book) -> None:
    """One size beyond 64 bits and one of a single unit have no common scale."""
    book.bids |= {99 * 10**8: 5 * 10**20, 98 * 10**8: 1}


def test_book_that_cannot_be_published_is_live_after_its_snapshot() -> None:
    bench = Bench()
    bench.open()
    book = Book()
    bench.send(book.change([(False, 101 * 10**8, 7)]))
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    bench.give("REST", REST, book.snapshot(), target)
    book.change([])
    bench.send(book.change([(False, 102 * 10**8, 7)]))
    unpublishable(book)
    snapshot = book.snapshot()
    for price in (103, 104):
        bench.send(book.change([(False, price * 10**8, 7)]))
    bench.give("REST", REST, snapshot, target)
    held = bench.engine.markets[SYMBOL].book
    assert (held.state, held.last_id) == ("live", book.update_id)
    assert [gap.state for gap in bench.of(GAPS)] == [1, 3]
    assert [letter.reason for letter in bench.of("ingest.dlq.v1")] == ["BAD_NUMBER"]
    bench.send(book.change([(False, 105 * 10**8, 7)]))
    assert held.last_id == book.update_id
    assert len(bench.of("ingest.dlq.v1")) == 1
    bench.send(book.change([]), after_ns=61 * SECOND)
    assert len(bench.of("ingest.dlq.v1")) == 2


def test_ids_that_begin_anew_are_collected_and_reported() -> None:
    bench = Bench()
    bench.open()
    for number in range(1_000_001, 1_000_006):
        bench.send(trade(number))
    before = len(bench.of(TRADES))
    for number in range(10, 16):
        bench.send(trade(number, T=1_723_170_000_000 + number))
    ids = [event.trade_id for event in bench.of(TRADES)[before:]]
    assert ids == [12, 13, 14, 15]
    gap = next(gap for gap in bench.of(GAPS) if gap.cause == 9)
    assert (gap.ids.last, gap.state) == (11, 1)
    assert bench.engine.markets[SYMBOL].trades.last_id == 15


def test_late_duplicates_are_no_restart(bench: Bench) -> None:
    for number in (4, 4, 4, 7, 7):
        bench.send(trade(number))
    assert not [gap for gap in bench.of(GAPS) if gap.cause == 9]


def test_book_ids_that_begin_anew_resync_the_book() -> None:
    bench = Bench()
    bench.open()
    book = Book(update_id=10**6)
    bench.send(book.change([(True, 99 * 10**8, 5), (False, 101 * 10**8, 7)]))
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    bench.give("REST", REST, book.snapshot(), target)
    bench.send(book.change([(True, 98 * 10**8, 5)]))
    anew = Book(bids=book.bids, asks=book.asks, update_id=50)
    bench.commands()
    for size in range(1, 5):
        frame = json.loads(anew.change([(True, 98 * 10**8, size)]))
        frame["data"]["E"] += 10_000_000
        bench.send(json.dumps(frame, separators=(",", ":")).encode())
    assert bench.commands() == [FetchSnapshot(SYMBOL, True)]
    bench.give("REST", REST, anew.snapshot(), target)
    assert bench.engine.markets[SYMBOL].book.state == "live"
    assert {gap.cause for gap in bench.of(GAPS)} == {9}


def test_restart_does_not_prolong_a_repair_that_is_refused() -> None:
    bench = Bench()
    gap = session.SavedGap(
        7, 8, [(7, 8)], gap_id="g", failed_attempts=70, refused_ns=bench.now - GIVE_UP_NS
    )
    left = session.Continuation("binance.BTC-USDT", trade_id=10, gaps=[gap])
    (payload,) = session.encode_parts(session.Checkpoint({SYMBOL: left}))
    bench.give("CONNECT", REST, payload, "https://x")
    bench.open()
    assert bench.commands() == [FetchTrades(SYMBOL, 7, 2)]
    answer(bench, 7, b"no", 400)
    assert states(bench)[7][0] == 4


def release(bench: Bench) -> None:
    """An operator removes the symbol."""
    control = {"method": "UNSUBSCRIBE", "params": STREAMS, "id": 2}
    bench.give("SUBSCRIPTION", A, json.dumps(control).encode())
    bench.give("SUBSCRIPTION", REST, json.dumps({"symbol": SYMBOL}).encode(), session.RELEASE)


def subscribe(bench: Bench) -> None:
    control = {"method": "SUBSCRIBE", "params": STREAMS, "id": 3}
    bench.give("SUBSCRIPTION", A, json.dumps(control).encode())


def test_symbol_that_was_removed_owes_nothing_when_it_is_added_again(bench: Bench) -> None:
    book = Book()
    bench.send(book.change([(True, 99 * 10**8, 5), (False, 101 * 10**8, 7)]))
    target = f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000"
    bench.give("REST", REST, book.snapshot(), target)
    book.change([])
    bench.send(book.change([]))
    assert bench.engine.markets[SYMBOL].book.state == "stale"
    release(bench)
    positions = list(bench.engine.positions())
    assert [(each.stream, each.subscribed) for each in positions] == [
        (f"trade:{SYMBOL}", False),
        (f"book:{SYMBOL}", False),
    ]
    assert [gap.first for gap in positions[0].gaps] == [2, 5], "their repair goes on"
    answer(bench, 2, [past_trade(2), past_trade(3)])
    answer(bench, 5, [past_trade(5), past_trade(6)])
    before = len(bench.of(GAPS))
    subscribe(bench)
    book.update_id += 10**6
    bench.commands()
    bench.send(trade(10**6))
    bench.send(book.change([]))
    assert bench.commands() == [FetchSnapshot(SYMBOL, False)]
    bench.give("REST", REST, book.snapshot(), target)
    assert bench.engine.markets[SYMBOL].book.state == "live"
    assert [each.last_id for each in bench.engine.positions()] == [10**6, book.update_id]
    assert len(bench.of(GAPS)) == before
    bench.send(trade(10**6 + 2))
    assert bench.of(GAPS)[-1].ids.first == 10**6 + 1


def test_removal_before_the_first_message_ends_what_an_earlier_run_owed() -> None:
    bench = Bench()
    left = session.Continuation("binance.BTC-USDT", trade_id=10, book_id=20)
    (payload,) = session.encode_parts(session.Checkpoint({SYMBOL: left}))
    bench.give("CONNECT", REST, payload, "https://x")
    bench.give("SUBSCRIPTION", REST, json.dumps({"symbol": SYMBOL}).encode(), session.RELEASE)
    assert not any(each.subscribed for each in bench.engine.positions())
    # A connection that was being opened brings messages before it is unsubscribed.
    bench.open()
    bench.send(trade(99))
    control = {"method": "UNSUBSCRIBE", "params": STREAMS, "id": 2}
    bench.give("SUBSCRIPTION", A, json.dumps(control).encode())
    assert not any(each.subscribed for each in bench.engine.positions())
    assert bench.of(GAPS) == []


def test_large_checkpoint_is_continued_from_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PART_BYTES", 300)
    names = [f"T{number}USDT" for number in range(9)]
    gap = session.SavedGap(7, 8, [(7, 8)])
    symbols = {each: session.Continuation(f"binance.{each}", 10, gaps=[gap]) for each in names}
    parts = session.encode_parts(session.Checkpoint(symbols, epoch=3))
    assert len(parts) > 2
    assert max(map(len, parts)) < 1000
    bench = Bench()
    for part in parts:
        bench.give("CONNECT", REST, part, "https://x")
    assert bench.engine.epoch == 3
    assert sorted(bench.engine.restored) == names
    assert bench.engine.sequence == len(parts)


def test_damaged_frame_marks_only_the_stream_that_it_names() -> None:
    bench = Bench()
    bench.open()
    control = {"method": "SUBSCRIBE", "params": ["ethusdt@trade"], "id": 2}
    bench.give("SUBSCRIPTION", A, json.dumps(control).encode())
    bench.send(b'x{"stream":"ethusdt@trade","data":{')
    markets = bench.engine.markets
    assert markets["ETHUSDT"].trades.suspect is not None
    assert markets[SYMBOL].trades.suspect is None
