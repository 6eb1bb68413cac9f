"""The engine's rules one by one: envelopes, units, dispatch, klines, audit, merging, sessions."""

import json

import msgspec
import pytest
from engine_bench import (
    BOOKS,
    DEAD,
    GAPS,
    INSTRUMENTS,
    MICRO,
    PRICE,
    QUOTES,
    REST,
    TRADES,
    A,
    B,
    Bench,
)

from collector_binance.core.commands import ControlReply, FetchSnapshot, FetchTrades
from collector_binance.core.session import Checkpoint, Continuation, SavedGap
from collector_binance.testing import (
    BEGIN_MS,
    SYMBOL,
    Book,
    combined,
    text,
    trade,
)


@pytest.fixture
def synced(bench: Bench) -> tuple[Bench, Book]:
    """A bench with a live book of 99 / 101."""
    book = Book()
    bench.send(book.change([(True, 99 * 10**8, 5), (False, 101 * 10**8, 7)]))
    bench.commands()
    bench.give("REST", REST, book.snapshot(), f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000")
    return bench, book


@pytest.mark.parametrize(("url", "factor"), [("wss://x/stream", 1000), (MICRO, 1)])
def test_times_follow_the_connections_unit(url: str, factor: int) -> None:
    bench = Bench()
    bench.open(url=url)
    bench.send(trade(1, T=1234, E=1235))
    (event,) = bench.of(TRADES)
    assert (event.event_time, event.publish_time) == (1234 * factor, 1235 * factor)


def test_a_quote_has_no_event_time_and_old_ones_are_dropped(bench: Bench) -> None:
    book = Book(bids={PRICE: 1}, asks={PRICE + 1: 2})
    newer, older = book.quote(), None
    bench.send(newer)
    book.update_id -= 1
    older = book.quote()
    bench.send(older)
    (event,) = bench.of(QUOTES)
    assert not event.HasField("event_time")
    assert (event.bid_price_units, event.ask_size_units) == (PRICE, 2)


@pytest.mark.parametrize(
    "frame",
    [
        b'{"result":null,"id":1}',
        b'{"code":2,"msg":"Invalid request","id":3}',
        b'{"error":{"code":2,"msg":"x"},"id":4}',
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
def test_replies_and_shutdowns_reach_the_connection(bench: Bench, frame: bytes) -> None:
    bench.send(frame)
    assert bench.commands() == [ControlReply(A, frame)]
    assert bench.events == []


@pytest.mark.parametrize(
    "frame",
    [
        combined("aggTrade", {"e": "aggTrade", "s": SYMBOL}),
        combined("depth20", {"lastUpdateId": 1, "bids": [], "asks": []}),
        b'{"e":"24hrTicker","s":"BTCUSDT","p":"1"}',
        b'[{"e":"24hrMiniTicker"}]',
    ],
)
def test_streams_that_are_not_collected_are_ignored(bench: Bench, frame: bytes) -> None:
    bench.send(frame)
    assert bench.events == []
    assert bench.engine.counters.ignored == 1


def test_the_order_of_keys_does_not_matter_nor_does_the_envelope() -> None:
    bench = Bench(admits_any=True)
    for number, frame in enumerate(
        [
            trade(1),
            b'{"data":'
            + json.dumps(json.loads(trade(2))["data"]).encode()
            + b',"stream":"btcusdt@trade"}',
            json.dumps(json.loads(trade(3))["data"]).encode(),
            b'{ "stream" : "btcusdt@trade", "data" :'
            + json.dumps(json.loads(trade(4))["data"]).encode()
            + b"}",
        ]
    ):
        bench.send(frame)
        assert bench.of(TRADES)[-1].trade_id == number + 1


def test_symbols_need_not_be_ascii() -> None:
    bench = Bench(admits_any=True)
    symbol = "这是测试币456USDT"
    bench.send(trade(1, s=symbol))
    escaped = json.dumps(json.loads(trade(2, s=symbol))).encode()
    assert b"\\u" in escaped
    bench.send(escaped)
    assert [event.instrument for event in bench.of(TRADES)] == ["binance.这是测试币456-USDT"] * 2


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (trade(5, p="1,0"), "BAD_NUMBER"),
        (trade(5, p="-1.00000000"), "BAD_NUMBER"),
        (trade(5, t="5"), "INVALID_MESSAGE"),
        (trade(5)[:-4], "NOT_JSON"),
        (trade(5).replace(b'"s":"BTCUSDT"', b'"s":"ETHUSDT"'), "WRONG_SYMBOL"),
        (b'{"hello":1}', "UNKNOWN_MESSAGE"),
        (b"\xff\xfe", "NOT_JSON"),
    ],
)
def test_a_bad_frame_is_a_dead_letter_and_the_cause_of_its_gap(
    bench: Bench, frame: bytes, reason: str
) -> None:
    bench.send(trade(4))
    bench.send(frame)
    bench.send(trade(6))
    (letter,) = bench.of(DEAD)
    assert (letter.reason, letter.value) == (reason, frame)
    (gap,) = bench.of(GAPS)
    assert (gap.ids.first, gap.ids.last) == (5, 5)
    assert gap.cause == 5
    assert bench.commands() == [FetchTrades(SYMBOL, 5, 1)]


def test_values_beyond_64_bits_take_a_larger_step(bench: Bench) -> None:
    huge = 10**27
    bench.send(trade(1, q=text(huge)))
    (event,) = bench.of(TRADES)
    assert event.size_units * 10 ** (event.size_exponent + 8) == huge
    assert event.price_exponent == -8


def test_a_book_that_does_not_follow_its_book_ticker_is_rebuilt(
    synced: tuple[Bench, Book],
) -> None:
    bench, book = synced
    wrong = Book(bids={98 * 10**8: 3}, asks=dict(book.asks))
    for _ in range(5):
        bench.send(book.change([(False, 150 * 10**8, 1)]))
        wrong.update_id = book.update_id
        bench.send(wrong.quote())
    (gap,) = bench.of(GAPS)
    assert (gap.channel, gap.cause, gap.state) == ("book", 7, 1)
    assert bench.commands() == [FetchSnapshot(SYMBOL, urgent=True)]
    stale = bench.of(BOOKS)[-1]
    assert (stale.kind, stale.stale) == (2, True)


def test_one_lost_book_ticker_is_no_mismatch(synced: tuple[Bench, Book]) -> None:
    bench, book = synced
    bench.send(book.quote())
    bench.send(book.change([(True, 100 * 10**8, 1)]))  # its bookTicker is lost
    for _ in range(4):
        bench.send(book.change([(True, 100 * 10**8, 2 + book.update_id)]))
        bench.send(book.quote())
    assert bench.of(GAPS) == []
    assert bench.engine.markets[SYMBOL].book.audit.matches > 0


def test_a_snapshot_is_published_at_resync_and_every_minute(synced: tuple[Bench, Book]) -> None:
    bench, book = synced
    for _ in range(5):
        bench.send(book.change([(True, 99 * 10**8, book.update_id)]), after_ns=31 * 10**9)
    kinds = [event.kind for event in bench.of(BOOKS)]
    assert kinds == [2, 1, 1, 2, 1, 1, 2, 1]
    full = bench.of(BOOKS)[-2]
    assert full.event_id.endswith(f":book:snapshot:{full.last_update_id}")
    assert not full.HasField("trusted_low_units")


def test_the_next_connection_may_run_ahead_without_a_gap(synced: tuple[Bench, Book]) -> None:
    bench, book = synced
    bench.send(trade(1))
    bench.open(B)
    deltas = [book.change([(True, 99 * 10**8, n + 1)]) for n in range(4)]
    for frame in (trade(3), trade(4), deltas[2], deltas[3]):
        bench.send(frame, B)
    for frame in (trade(2), deltas[0], trade(3), deltas[1], deltas[2]):
        bench.send(frame, A)
    bench.give("DISCONNECT", A, context="closed")
    bench.send(trade(5), B)
    assert [event.trade_id for event in bench.of(TRADES)] == [1, 2, 3, 4, 5]
    assert bench.of(GAPS) == []
    assert bench.of(BOOKS)[-1].last_update_id == book.update_id


def test_what_the_old_connection_never_delivers_is_a_gap_in_the_end(bench: Bench) -> None:
    bench.send(trade(1))
    bench.open(B)
    bench.send(trade(3), B)
    assert bench.of(GAPS) == []
    bench.give("DISCONNECT", A, context="the connection broke")
    (gap,) = bench.of(GAPS)
    assert (gap.ids.first, gap.ids.last) == (2, 2)


@pytest.mark.parametrize(
    ("reason", "cause"), [("stalled", 4), ("the connection broke", 2), ("closed", 3)]
)
def test_a_hole_after_a_disconnect_has_its_cause(bench: Bench, reason: str, cause: int) -> None:
    bench.send(trade(1))
    bench.give("DISCONNECT", A, context=reason)
    bench.open(B)
    bench.send(trade(5), B)
    (gap,) = bench.of(GAPS)
    assert gap.cause == cause
    assert (gap.start_time, gap.end_time) == ((BEGIN_MS + 1) * 1000, (BEGIN_MS + 5) * 1000)


def test_a_session_goes_on_where_the_last_one_stopped() -> None:
    gap = SavedGap(first_id=3, last_id=6, missing=[(5, 6)], revision=2)
    left = Continuation(trade_id=10, trade_time=5, book_id=990, gaps=[gap])
    bench = Bench()
    bench.give("CONNECT", REST, msgspec.json.encode(Checkpoint({SYMBOL: left})), "http://x")
    bench.open()
    assert bench.commands() == [FetchTrades(SYMBOL, 5, 2)]
    bench.send(trade(10))
    bench.send(trade(12))
    book = Book(update_id=1000)
    bench.send(book.change([(True, PRICE, 1)]))
    found = {(gap.channel, gap.ids.first, gap.ids.last, gap.cause) for gap in bench.of(GAPS)}
    assert found == {("trade", 11, 11, 3), ("book", 991, 1000, 3)}
    assert [event.trade_id for event in bench.of(TRADES)] == [12]


def test_gap_of_a_book_that_was_not_rebuilt_is_closed_by_the_next_session() -> None:
    gap = SavedGap(991, 995, [(991, 995)], gap_id="g", revision=7, channel="book")
    bench = Bench()
    checkpoint = Checkpoint({SYMBOL: Continuation(book_id=990, book_gaps=[gap])})
    bench.give("CONNECT", REST, msgspec.json.encode(checkpoint), "http://x")
    bench.open()
    book = Book(update_id=1000)
    bench.send(book.change([(True, PRICE, 1)]))
    bench.give("REST", REST, book.snapshot(), f"GET /api/v3/depth?symbol={SYMBOL}&limit=1000")
    (closed,) = bench.of(GAPS)
    assert (closed.gap_id, closed.state, closed.cause) == ("g", 3, 3)
    assert (closed.ids.first, closed.ids.last) == (991, 1000)
    assert closed.revision > 7


def test_instruments_are_published_when_they_change(bench: Bench) -> None:
    info = {
        "symbol": SYMBOL,
        "status": "TRADING",
        "baseAsset": "BTC",
        "quoteAsset": "USDT",
        "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"}],
    }
    for status in ("TRADING", "TRADING", "BREAK"):
        body = json.dumps({"symbols": [info | {"status": status}]}).encode()
        bench.give("REST", REST, body, "GET /api/v3/exchangeInfo")
    assert [event.status for event in bench.of(INSTRUMENTS)] == ["TRADING", "BREAK"]


def test_gap_ids_are_not_reused_when_ids_run_again(bench: Bench) -> None:
    """The same ids are missed by two sessions: two gaps, not one that is opened again."""
    for session in (1, 2):
        bench.now += session * 10**9
        bench.give("CONNECT", REST, b"{}", "http://x")
        bench.open()
        bench.send(trade(1))
        bench.send(trade(3))
    first, second = bench.of(GAPS)
    assert first.gap_id != second.gap_id
    assert first.revision < second.revision


def test_book_mismatch_before_any_match_starts_after_the_snapshot(
    synced: tuple[Bench, Book],
) -> None:
    bench, book = synced
    joined = book.update_id
    for size in range(1, 5):
        bench.send(book.change([(True, 98 * 10**8, size)]))
        wrong = json.loads(book.quote())
        wrong["data"]["B"] = text(size)
        bench.send(json.dumps(wrong, separators=(",", ":")).encode())
    gap = next(gap for gap in bench.of(GAPS) if gap.cause == 7)
    assert gap.ids.first == joined + 1


def test_each_session_publishes_its_instruments(bench: Bench) -> None:
    """An archive of several sessions replays to what each of them published."""
    info = {"symbol": SYMBOL, "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"}
    body = json.dumps({"symbols": [info]}).encode()
    for _ in range(2):
        bench.give("CONNECT", REST, b"{}", "http://x")
        bench.give("REST", REST, body, "GET /api/v3/exchangeInfo")
    assert len(bench.of(INSTRUMENTS)) == 2
