"""LivenessPublisher: what it publishes, and the receive times that it keeps."""

from typing import Any

import pytest

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.liveness_pb2 import CoverageState, Liveness
from coinmesh_sources import liveness
from coinmesh_sources.inputs import Writer
from coinmesh_sources.liveness import Coverage, LivenessPublisher

LIVE, SYNCING = CoverageState.COVERAGE_STATE_LIVE, CoverageState.COVERAGE_STATE_SYNCING
DOWN = CoverageState.COVERAGE_STATE_DOWN


class Producer:
    """Keeps what is queued; has room when `room` says so."""

    def __init__(self) -> None:
        self.room = True
        self.sent: list[Liveness] = []

    def produce_nowait(self, topic: str, key: bytes, value: bytes) -> None:
        if not self.room:
            raise BufferError
        assert (topic, key) == (topics.LIVENESS.name, b"collector-v")
        self.sent.append(Liveness.FromString(framing.split(value)[1]))


class Clock:
    def __init__(self) -> None:
        self.seconds = 100

    def time_ns(self) -> int:
        return self.seconds * 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    return clock


def publisher(producer: Producer, streams: list[Coverage]) -> LivenessPublisher:
    part: Any = producer
    return LivenessPublisher(Writer("v", "collector-v", "v/s", 4), 1, part, lambda: streams)


def test_streams_are_grouped_by_channel(clock: Clock) -> None:
    producer = Producer()
    streams = [
        Coverage("trade", "v.A", 3, LIVE),
        Coverage("book", "v.A", 0, SYNCING),
        Coverage("trade", "v.B", 0, DOWN),
    ]
    publisher(producer, streams).publish()
    (event,) = producer.sent
    assert event.event_id == "v:liveness:v/s:100"
    assert (event.collector, event.session, event.epoch) == ("collector-v", "v/s", 4)
    assert event.valid_seconds == 5
    trade, book = event.channels
    assert (trade.channel, list(trade.instruments)) == ("trade", ["v.A", "v.B"])
    assert list(trade.states) == [LIVE, DOWN]
    assert list(trade.last_receive_times) == [100 * 10**6, 0]
    assert (book.channel, list(book.states)) == ("book", [SYNCING])


def test_receive_time_is_that_of_the_last_new_input(clock: Clock) -> None:
    producer = Producer()
    streams = [Coverage("trade", "v.A", 3, LIVE)]
    live = publisher(producer, streams)
    for inputs in (3, 3, 4):
        streams[0] = Coverage("trade", "v.A", inputs, LIVE)
        live.publish()
        clock.seconds += 1
    times = [each.channels[0].last_receive_times[0] for each in producer.sent]
    assert times == [100 * 10**6, 100 * 10**6, 102 * 10**6]


def test_last_record_reports_all_streams_down(clock: Clock) -> None:
    producer = Producer()
    publisher(producer, [Coverage("trade", "v.A", 3, LIVE)]).publish(stopping=True)
    assert list(producer.sent[0].channels[0].states) == [DOWN]


def test_record_without_room_is_dropped(clock: Clock) -> None:
    producer = Producer()
    producer.room = False
    publisher(producer, [Coverage("trade", "v.A", 3, LIVE)]).publish()
    producer.room = True
    assert producer.sent == []
