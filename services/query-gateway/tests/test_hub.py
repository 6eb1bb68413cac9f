"""The live stream's fan-out, and the messages that a reader gets."""

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data import INSTRUMENT, bar, liveness, quote, trade

from coinmesh_contracts.market.v1.market_service_pb2 import StreamMarketRequest
from coinmesh_contracts.market.v1.stream_pb2 import StreamGapReason, StreamMarketResponse
from meshkit.errors import InvalidArgument
from query_gateway import market_stream
from query_gateway.coverage import Coverage
from query_gateway.hub import AHEAD_SECONDS, Hub, Partition, Selection
from query_gateway.live_view import LiveView
from query_gateway.market_stream import MarketStream
from query_gateway.resume_tokens import make_token, read_token, varint

TRADES: Partition = ("market.trades.v1", 1)
QUOTES: Partition = ("market.quotes.v1", 1)
ALL = Selection([INSTRUMENT], ["trade", "quote", "bar"], ["1m"])


class Market:
    """A hub with a view before it, fed by hand."""

    def __init__(self, kept: int = 100, queue: int = 50) -> None:
        self.now = 0.0
        self.view, self.hub = LiveView(1000), Hub(kept, queue, lambda: self.now)
        self.hub.begin({TRADES: 0, QUOTES: 0})
        self.offsets = {TRADES: 0, QUOTES: 0}

    def trade(self, number: int, name: str = INSTRUMENT) -> None:
        self._publish(TRADES, trade(number, 1_000_000 + number, name))

    def quote(self, number: int) -> None:
        self._publish(QUOTES, quote(number))

    def bar(self, minute: int, trades: int) -> None:
        self._publish(QUOTES, bar(minute * 60_000, trades=trades))

    def _publish(self, partition: Partition, event: object) -> None:
        news = self.view.apply(event)  # type: ignore[arg-type]
        self.hub.publish(partition, self.offsets[partition], news)
        self.offsets[partition] += 1


def request(**fields: object) -> StreamMarketRequest:
    return StreamMarketRequest(instruments=[INSTRUMENT], **fields)  # type: ignore[arg-type]


async def parsed(stream: AsyncGenerator[bytes, None]) -> AsyncIterator[StreamMarketResponse]:
    async for data in stream:
        yield StreamMarketResponse.FromString(data)


def ids(message: StreamMarketResponse) -> list[int]:
    return [event.trade.trade_id for event in message.batch.events]


async def test_a_reader_gets_batches_that_parse_as_messages() -> None:
    market = Market()
    messages = parsed(MarketStream(market.hub, Coverage()).read(request()))
    assert (await anext(messages)).WhichOneof("event") == "heartbeat"
    market.trade(1)
    market.quote(7)
    market.bar(0, 3)
    market.bar(0, 3)  # a replayed record is no news
    batch = await anext(messages)
    assert [event.WhichOneof("event") for event in batch.batch.events] == ["trade", "quote", "bar"]
    assert batch.batch.events[0].trade.price == "60000.01000000"
    assert batch.batch.events[1].quote.bid_size == "1.50000000"
    assert batch.batch.events[2].bar.interval == "1m"
    assert batch.batch.events[2].bar.bar.revision == 7
    assert read_token(batch.resume_token) == market.hub.head


async def test_only_what_was_asked_for_is_sent() -> None:
    market = Market()
    messages = parsed(MarketStream(market.hub, Coverage()).read(request(channels=["trade"])))
    await anext(messages)
    market.quote(1)
    market.trade(5, "binance.ETH-USDT")
    market.trade(6)
    assert ids(await anext(messages)) == [6]


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    market = Market(kept=500, queue=50)
    messages = parsed(MarketStream(market.hub, Coverage()).read(request()))
    await anext(messages)
    for number in range(1, 81):
        market.trade(number)
    gap = await anext(messages)
    assert (gap.gap.dropped, gap.gap.reason) == (
        30,
        StreamGapReason.STREAM_GAP_REASON_SLOW_CONSUMER,
    )
    assert ids(await anext(messages)) == list(range(31, 81))


async def test_batches_are_bounded() -> None:
    market = Market(kept=500, queue=400)
    messages = parsed(MarketStream(market.hub, Coverage()).read(request()))
    await anext(messages)
    for number in range(1, 251):
        market.trade(number)
    sizes = [len(ids(await anext(messages))) for _ in range(3)]
    assert sizes == [100, 100, 50]


@given(
    st.lists(st.sampled_from(["trade", "quote", "other"]), max_size=40),
    st.lists(st.sampled_from(["trade", "quote", "other"]), max_size=40),
)
def test_a_resumed_reader_gets_exactly_what_it_missed(before: list[str], missed: list[str]) -> None:
    market = Market()
    number = 0

    def publish(kinds: list[str]) -> None:
        nonlocal number
        for kind in kinds:
            number += 1
            if kind == "trade":
                market.trade(number)
            elif kind == "quote":
                market.quote(number)
            else:
                market.trade(number, "binance.ETH-USDT")

    first = market.hub.subscribe(ALL, "")
    publish(before)
    while first.take(7, market.hub.head):
        pass
    token = first.token
    publish(missed)
    wanted = [e.encoded for e in market.hub._ring if e.news.instrument == INSTRUMENT]
    expected = wanted[len(wanted) - sum(kind != "other" for kind in missed) :]
    resumed = market.hub.subscribe(ALL, token)
    assert resumed.take_gap() is None
    # A reader that stops in the middle of its queue goes on there.
    taken = resumed.take(len(expected) // 2, market.hub.head)
    rest = market.hub.subscribe(ALL, resumed.token)
    assert taken + rest.take(100, market.hub.head) == expected


async def test_a_token_that_is_too_old_is_told_as_a_gap() -> None:
    market = Market(kept=10)
    token = market.hub.subscribe(ALL, "").token
    for number in range(1, 31):
        market.trade(number)
    messages = parsed(MarketStream(market.hub, Coverage()).read(request(resume_token=token)))
    await anext(messages)
    gap = await anext(messages)
    assert gap.gap.reason == StreamGapReason.STREAM_GAP_REASON_RESUME_TOKEN_TOO_OLD
    assert ids(await anext(messages)) == list(range(21, 31))


async def test_a_token_is_good_at_another_replica() -> None:
    one, other = Market(), Market()
    for number in range(1, 6):
        one.trade(number)
        other.trade(number)
    reader = one.hub.subscribe(ALL, "")
    for number in range(6, 9):
        other.trade(number)
    messages = parsed(MarketStream(other.hub, Coverage()).read(request(resume_token=reader.token)))
    await anext(messages)
    assert ids(await anext(messages)) == [6, 7, 8]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_resume_at_replica_behind_the_token_returns_no_event_twice(
    behind: int, missing: int, later: int
) -> None:
    """The token's replica has read `missing` records that the next replica reads afterwards."""
    one, other = Market(), Market()
    for number in range(1, behind + 1):
        one.trade(number)
        other.trade(number)
    for number in range(behind + 1, behind + missing + 1):
        one.trade(number)
    reader = one.hub.subscribe(ALL, "")
    resumed = other.hub.subscribe(ALL, reader.token)
    assert resumed.take(100, other.hub.head) == []
    # A token never goes back, even while its replica is still behind it.
    assert read_token(resumed.token) == one.hub.head
    for number in range(behind + 1, behind + missing + later + 1):
        other.trade(number)
    expected = [event.encoded for event in other.hub._ring][behind + missing :]
    assert resumed.take(100, other.hub.head) == expected
    assert resumed.take_gap() is None
    assert read_token(resumed.token) == other.hub.head


def test_resume_token_of_a_recreated_topic_reports_a_gap() -> None:
    market = Market(kept=10)
    market.trade(1)
    reader = market.hub.subscribe(ALL, make_token({TRADES: 5000, QUOTES: 0}))
    assert reader.take_gap() == (0, StreamGapReason.STREAM_GAP_REASON_RESUME_TOKEN_TOO_OLD)
    market.trade(2)
    assert len(reader.take(10, market.hub.head)) == 1


async def test_resume_token_shortly_ahead_of_a_recreated_topic_reports_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(market_stream, "HEARTBEAT_SECONDS", 0.0)
    market = Market()
    market.trade(1)
    token = make_token({TRADES: 50, QUOTES: 0})
    messages = parsed(MarketStream(market.hub, Coverage()).read(request(resume_token=token)))
    await anext(messages)
    market.trade(2)
    market.now = AHEAD_SECONDS - 1
    assert (await anext(messages)).WhichOneof("event") == "heartbeat"
    market.now = AHEAD_SECONDS
    gap = await anext(messages)
    assert gap.gap.reason == StreamGapReason.STREAM_GAP_REASON_RESUME_TOKEN_TOO_OLD
    assert read_token(gap.resume_token) == market.hub.head
    market.trade(3)
    batches = [await anext(messages) for _ in range(2)]
    assert [ids(batch) for batch in batches if ids(batch)] == [[3]]


def test_resume_at_replica_that_catches_up_in_time_reports_no_gap() -> None:
    market = Market()
    reader = market.hub.subscribe(ALL, make_token({TRADES: 3, QUOTES: 0}))
    for number in range(1, 5):
        market.trade(number)
    market.now = 2 * AHEAD_SECONDS
    market.hub.give_up_ahead(reader)
    assert reader.take_gap() is None
    assert len(reader.take(100, market.hub.head)) == 1


def test_resume_token_of_128_partitions_fits_the_limit() -> None:
    topics = ("market.trades.v1", "market.quotes.v1", "market.bars.v1")
    market = Market()
    market.hub.begin({(topic, n): 2**40 + n for topic in topics for n in range(128)})
    token = market.hub.subscribe(ALL, "").token
    assert len(token) < 4000
    assert market.hub.subscribe(ALL, token).token == token


def test_publish_cost_is_independent_of_other_readers() -> None:
    def calls(readers: int) -> int:
        market = Market()
        for number in range(readers):
            market.hub.subscribe(Selection([f"binance.X{number}-USDT"], ["trade", "quote"], []), "")
        counted = 0

        def count(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        gc.disable()  # a finalizer that runs meanwhile counts, too
        sys.setprofile(count)
        try:
            market.trade(1)
        finally:
            sys.setprofile(None)
            gc.enable()
        return counted

    assert calls(1000) == calls(1)


async def test_silence_is_filled_with_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_stream, "HEARTBEAT_SECONDS", 0.01)
    messages = parsed(MarketStream(Market().hub, Coverage()).read(request()))
    kinds = [(await anext(messages)).WhichOneof("event") for _ in range(3)]
    assert kinds == ["heartbeat"] * 3


async def test_heartbeats_name_stale_instruments_beside_busy_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(market_stream, "HEARTBEAT_SECONDS", 0.0)
    market, coverage, now_ns = Market(), Coverage(lambda: now_ns), 10**18
    stream = MarketStream(market.hub, coverage)
    messages = parsed(stream.read(request(channels=["trade", "bar"])))
    assert (await anext(messages)).heartbeat.stale_instruments == [INSTRUMENT]
    coverage.apply(liveness(now_ns, trade=[INSTRUMENT]), now_ns // 10**6)
    market.trade(1)
    assert ids(await anext(messages)) == [1]
    assert (await anext(messages)).heartbeat.stale_instruments == []


async def test_a_draining_replica_says_so_after_the_last_events() -> None:
    market = Market()
    messages = parsed(MarketStream(market.hub, Coverage()).read(request()))
    await anext(messages)
    market.trade(1)
    market.hub.on_stopping()
    assert ids(await anext(messages)) == [1]
    last = await anext(messages)
    assert last.error.code == 14
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_a_cancelled_reader_leaves_nothing_behind() -> None:
    market = Market()

    async def read() -> None:
        async for _ in MarketStream(market.hub, Coverage()).read(request()):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    assert market.hub.readers == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(10):  # the generator is closed by the loop
        await asyncio.sleep(0)
    assert market.hub.readers == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"channels": ["news"]}, "UNKNOWN_CHANNEL"),
        ({"intervals": ["15m"]}, "UNKNOWN_INTERVAL"),
        ({"resume_token": "x"}, "BAD_RESUME_TOKEN"),
        ({"resume_token": "eyJhIjoxfQ"}, "BAD_RESUME_TOKEN"),
    ],
)
def test_a_wrong_request_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MarketStream(Market().hub, Coverage()).read(request(**fields))
    assert caught.value.reason == reason


@given(st.text(max_size=100))
def test_a_garbage_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="resume_token"):
        read_token(text)


@given(st.integers(0, 2**40))
def test_lengths_are_written_as_protobuf_does(value: int) -> None:
    encoded = varint(value)
    decoded = 0
    for shift, byte in enumerate(encoded):
        decoded |= (byte & 0x7F) << 7 * shift
    assert decoded == value
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80
