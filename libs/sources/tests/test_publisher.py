"""Publisher: frames first, gaps last, and backpressure."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coinmesh_contracts import framing
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapState
from coinmesh_sources.publisher import Publisher
from coinmesh_sources.recorder import FrameRecorder
from meshkit.errors import DataLoss, InvalidArgument
from meshkit.metrics import Metrics

QUOTES, TRADES, GAPS = "market.quotes.v1", "market.trades.v1", "ingest.gaps.v1"
OPEN, REPAIRED = (
    framing.header(1) + Gap(state=state).SerializeToString()
    for state in (GapState.GAP_STATE_OPEN, GapState.GAP_STATE_REPAIRED)
)


class SlowKafka:
    """A producer with room for so many events, that acknowledges frames on request."""

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[Any] = []
        self.requests: list[asyncio.Future[None]] = []
        self.more = asyncio.Event()
        self.acknowledged = asyncio.Event()

    def produce_nowait(self, *record: Any) -> None:
        if len(self.sent) >= self.room:
            raise BufferError
        self.sent.append(record)

    async def produce(self, *record: Any) -> None:
        while len(self.sent) >= self.room:
            self.more.clear()
            await self.more.wait()
        self.sent.append(record)

    async def deliver(self, *record: Any) -> None:
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.requests.append(taken)
        await taken
        self.sent.append(record)
        self.room += 1

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109
        del timeout
        self.sent.append(("flush", b"", b""))
        await self.acknowledged.wait()

    async def take_frames(self, room: int) -> None:
        """Acknowledge the frames that were sent, and make room for events."""
        await until(lambda: self.requests)
        for taken in self.requests:
            taken.set_result(None)
        self.requests.clear()
        self.room += room
        self.more.set()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)


class Feed:
    """A publisher with events and the frames they come from."""

    def __init__(self, kafka: SlowKafka, most: int) -> None:
        self._recorder = FrameRecorder("venue", 1)
        self._sequence = 0
        self.publisher = Publisher(
            kafka,  # type: ignore[arg-type]
            self._recorder,
            most,
            Metrics(),
            frozenset({QUOTES}),
        )
        self.pressure: list[bool] = []
        self.publisher.on_backpressure = self.pressure.append

    def put(self, topic: str, key: bytes, value: bytes) -> None:
        full = self._recorder.message(value, 0, "c/1", self._sequence)
        self._sequence += 1
        self.publisher.put([(topic, key, value)], full)


def sent(kafka: SlowKafka, topic: str) -> list[bytes]:
    return [value for name, _, value in kafka.sent if name == topic]


async def test_an_event_is_sent_when_kafka_has_its_frame() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    running = asyncio.create_task(feed.publisher.run())
    feed.put(TRADES, b"a", b"1")
    await until(lambda: kafka.requests)
    feed.put(TRADES, b"a", b"2")
    assert kafka.sent == []
    await kafka.take_frames(room=5)
    await until(lambda: kafka.requests)
    assert sent(kafka, TRADES) == [b"1"], "the second waits for a frame of its own"
    # The service stops while a round is on its way: it is finished.
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    drained = asyncio.create_task(feed.publisher.drain())
    await kafka.take_frames(room=5)
    await drained
    assert sent(kafka, TRADES) == [b"1", b"2"]
    order = [name for name, *_ in kafka.sent]
    assert order == ["ingest.frames.v1", TRADES] * 2


async def test_gap_record_waits_until_earlier_trades_are_acknowledged() -> None:
    """They are on different partitions: a crash between them must not leave a false REPAIRED."""
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    feed.put(GAPS, b"a", REPAIRED)
    drained = asyncio.create_task(feed.publisher.drain())
    await kafka.take_frames(room=5)
    await until(lambda: ("flush", b"", b"") in kafka.sent)
    assert sent(kafka, TRADES) == [b"1"]
    assert sent(kafka, GAPS) == []
    kafka.acknowledged.set()
    await drained
    assert sent(kafka, GAPS) == [REPAIRED]


async def test_only_gap_records_that_promise_events_wait_for_them() -> None:
    kafka = SlowKafka()
    kafka.acknowledged.set()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    for value in (OPEN, OPEN, REPAIRED, REPAIRED, OPEN):
        feed.put(GAPS, b"a", value)
    feed.put(TRADES, b"a", b"2")
    feed.put(GAPS, b"a", REPAIRED)
    drained = asyncio.create_task(feed.publisher.drain())
    await kafka.take_frames(room=10)
    await drained
    order = [
        {TRADES: "trade", "flush": "flush", OPEN: "open", REPAIRED: "repaired"}.get(
            value if topic == GAPS else topic, ""
        )
        for topic, _, value in kafka.sent
    ]
    assert " ".join(filter(None, order)) == (
        "trade open open flush repaired repaired open trade flush repaired"
    )


async def test_frames_that_kafka_does_not_take_end_the_publisher() -> None:
    """Their events would have no input in the archive."""
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    drained = asyncio.create_task(feed.publisher.drain())
    await until(lambda: kafka.requests)
    kafka.requests.pop().set_exception(InvalidArgument("RECORD_TOO_LARGE", "too large"))
    with pytest.raises(DataLoss, match="c/1 can't be recorded: too large"):
        await drained
    assert kafka.sent == []


async def test_delivered_returns_once_earlier_events_are_acknowledged() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=100)
    feed.put(TRADES, b"a", b"1")
    waiting = asyncio.create_task(feed.publisher.delivered())
    running = asyncio.create_task(feed.publisher.run())
    await kafka.take_frames(room=5)
    await until(lambda: ("flush", b"", b"") in kafka.sent)
    assert sent(kafka, TRADES) == [b"1"]
    assert not waiting.done()
    kafka.acknowledged.set()
    await waiting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_without_kafka_reading_pauses_and_only_quotes_are_replaced() -> None:
    kafka = SlowKafka()
    feed = Feed(kafka, most=4)
    for number in range(4):
        feed.put(TRADES, b"a", b"%d" % number)
    assert feed.pressure == [True]
    for key, value in ((b"a", b"q1"), (b"b", b"q2"), (b"a", b"q3")):
        feed.put(QUOTES, key, value)
    assert len(feed.publisher) == 6
    drained = asyncio.create_task(feed.publisher.drain())
    await until(lambda: kafka.requests)
    feed.put(TRADES, b"a", b"late")
    await kafka.take_frames(room=3)
    await until(lambda: len(kafka.sent) == 4)
    assert feed.pressure == [True], "three of six events have found room"
    kafka.room += 100
    kafka.more.set()
    await kafka.take_frames(room=0)
    await drained
    assert sent(kafka, TRADES) == [b"0", b"1", b"2", b"3", b"late"]
    assert sorted(sent(kafka, QUOTES)) == [b"q2", b"q3"]
    assert feed.publisher.coalesced == 1
    assert feed.pressure == [True, False]
    assert len(feed.publisher) == 0
