"""The live stream's fan-out: each event is encoded once, and subscriber queues are bounded.

A position in the stream is an offset per Kafka partition, so a resume token of one replica is valid
at every other, and after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from coinmesh_contracts.market.v1.stream_pb2 import StreamGapReason
from meshkit.resources import Resource
from query_gateway import rendering
from query_gateway.live_view import News
from query_gateway.resume_tokens import Partition, make_token, read_token, varint

__all__ = ["Event", "Hub", "Partition", "Selection", "Subscription", "varint"]
_Interest = tuple[str, str, str]
_SLOW_CONSUMER: Final = StreamGapReason.STREAM_GAP_REASON_SLOW_CONSUMER
_TOO_OLD: Final = StreamGapReason.STREAM_GAP_REASON_RESUME_TOKEN_TOO_OLD
AHEAD_SECONDS: Final = 10.0
"""Time within which a replica that is behind a token must reach it; after that the token belongs to
a topic that was recreated."""


class Event:
    """One event of the stream with its partition and offset."""

    __slots__ = ("_encoded", "news", "offset", "partition")

    def __init__(self, partition: Partition, offset: int, news: News) -> None:
        self.partition, self.offset, self.news = partition, offset, news
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """Return the event as an element of MarketBatch.events: tag, length and MarketEvent."""
        if self._encoded is None:
            body = rendering.event(self.news).SerializeToString()
            self._encoded = b"\x0a" + varint(len(body)) + body
        return self._encoded


class Selection:
    """The events requested by a subscriber."""

    def __init__(
        self, instruments: Iterable[str], channels: Iterable[str], intervals: Iterable[str]
    ) -> None:
        self.instruments = frozenset(instruments)
        intervals = frozenset(intervals)
        kinds = {(channel, "") for channel in channels if channel != "bar"}
        if "bar" in channels:
            kinds |= {("bar", interval) for interval in intervals}
        self.kinds = frozenset(kinds)

    def wants(self, news: News) -> bool:
        """Return whether an event is part of the selection."""
        return (news.channel, news.interval) in self.kinds and news.instrument in self.instruments

    @property
    def interests(self) -> Iterator[_Interest]:
        """Return every instrument with each of its channels and intervals."""
        return (
            (instrument, channel, interval)
            for instrument in self.instruments
            for channel, interval in self.kinds
        )


class Subscription:
    """One subscriber's bounded queue; the oldest events are dropped when it is full, and counted.

    Args:
        selection: The requested events.
        capacity: Maximum number of queued events.
        position: The subscriber's position, by partition.
        ahead: The positions of partitions on which the subscriber is ahead of this replica.
        ahead_until: Deadline for this replica to reach them, by the monotonic clock.
    """

    def __init__(
        self,
        selection: Selection,
        capacity: int,
        position: dict[Partition, int],
        ahead: Mapping[Partition, int],
        ahead_until: float,
    ) -> None:
        self.selection = selection
        self.closed = False
        self._capacity = capacity
        self._queue: deque[Event] = deque()
        self._position = position
        self._ahead, self._ahead_until = dict(ahead), ahead_until
        self._gap: tuple[int, StreamGapReason.ValueType] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Append an event, unless the subscriber received it from another replica."""
        if self._ahead and event.offset < self._ahead.get(event.partition, 0):
            return
        if len(self._queue) >= self._capacity:
            dropped = self._queue.popleft()
            self._position[dropped.partition] = dropped.offset + 1
            self.lose(1, _SLOW_CONSUMER)
        self._queue.append(event)
        self.wake()

    def lose(self, count: int, reason: StreamGapReason.ValueType) -> None:
        """Record dropped events; `count` 0 if their number is not known."""
        before = self._gap[0] if self._gap else 0
        self._gap = before + count, reason
        self.wake()

    def wake(self) -> None:
        """Wake the subscriber."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def has_news(self) -> bool:
        """Return whether there are events, a gap or a close to deliver."""
        return bool(self._queue) or self._gap is not None or self.closed

    async def wait(self, seconds: float) -> None:
        """Wait until there is something to deliver, at most `seconds`."""
        if self.has_news:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def give_up_ahead(self, head: Mapping[Partition, int], now: float) -> None:
        """Report a gap if this replica hasn't reached the subscriber's position in time."""
        if not self._ahead or now < self._ahead_until:
            return
        missed = [key for key, at in self._ahead.items() if head.get(key, 0) < at]
        self._ahead = {}
        if missed:
            self._position.update((key, head.get(key, 0)) for key in missed)
            self.lose(0, _TOO_OLD)

    def take_gap(self) -> tuple[int, StreamGapReason.ValueType] | None:
        """Return the events dropped since the last call: number and reason."""
        gap, self._gap = self._gap, None
        return gap

    def take(self, limit: int, head: dict[Partition, int]) -> list[bytes]:
        """Remove and return the oldest events, encoded; `head` is the stream's current position."""
        taken: list[bytes] = []
        while self._queue and len(taken) < limit:
            event = self._queue.popleft()
            self._position[event.partition] = event.offset + 1
            taken.append(event.encoded)
        if not self._queue:
            self._position.update(head)  # also passes events outside the selection
            self._ahead = {key: at for key, at in self._ahead.items() if head.get(key, 0) < at}
            self._position.update(self._ahead)
        return taken

    @property
    def token(self) -> str:
        """Return the token with which this subscriber resumes."""
        return make_token(self._position)


class Hub(Resource):
    """Receives updates of the live topics and distributes them to the subscribers."""

    def __init__(
        self,
        kept_events: int,
        queue_capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.head: dict[Partition, int] = {}
        self._clock = clock
        self._ring: deque[Event] = deque()
        self._floor: dict[Partition, int] = {}
        self._kept, self._capacity = kept_events, queue_capacity
        self._subscriptions: set[Subscription] = set()
        self._readers: dict[_Interest, set[Subscription]] = {}
        self.closed = False

    @property
    def readers(self) -> int:
        """Return the number of subscribers."""
        return len(self._subscriptions)

    def begin(self, positions: dict[Partition, int]) -> None:
        """Set the offsets from which events will arrive."""
        self.head.update(positions)
        self._floor.update(positions)

    def publish(self, partition: Partition, offset: int, news: News | None) -> None:
        """Publish the next record's update; None only advances the position."""
        self.head[partition] = offset + 1
        if news is None:
            return
        event = Event(partition, offset, news)
        self._ring.append(event)
        if len(self._ring) > self._kept:
            oldest = self._ring.popleft()
            self._floor[oldest.partition] = oldest.offset + 1
        for subscription in self._readers.get((news.instrument, news.channel, news.interval), ()):
            subscription.put(event)

    def subscribe(self, selection: Selection, token: str) -> Subscription:
        """Subscribe from now on, or from the position in `token`.

        If this replica is behind the token, it waits for up to `AHEAD_SECONDS` to reach it, within
        the number of events that a replica keeps; a token beyond that belongs to a recreated topic.

        Raises:
            InvalidArgument: BAD_RESUME_TOKEN.
        """
        begin = read_token(token) if token else {}
        lead = {key: at - self.head[key] for key, at in begin.items() if key in self.head}
        lost = [key for key, records in lead.items() if records > self._kept]
        for key in lost:
            begin[key] = self.head[key]
        ahead = {key: begin[key] for key, records in lead.items() if 0 < records <= self._kept}
        until = self._clock() + AHEAD_SECONDS
        position = {**self.head, **begin}
        subscription = Subscription(selection, self._capacity, position, ahead, until)
        if lost:
            subscription.lose(0, _TOO_OLD)
        if token:
            self._replay(subscription, begin)
        subscription.closed = self.closed
        self._subscriptions.add(subscription)
        for interest in selection.interests:
            self._readers.setdefault(interest, set()).add(subscription)
        return subscription

    def give_up_ahead(self, subscription: Subscription) -> None:
        """Report a gap to a subscriber whose position this replica hasn't reached in time."""
        subscription.give_up_ahead(self.head, self._clock())

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscriber."""
        self._subscriptions.discard(subscription)
        for interest in subscription.selection.interests:
            readers = self._readers.get(interest, set())
            readers.discard(subscription)
            if not readers:
                self._readers.pop(interest, None)

    def on_stopping(self) -> None:
        """Notify every subscriber that the stream closes."""
        self.closed = True
        for subscription in self._subscriptions:
            subscription.closed = True
            subscription.wake()

    def _replay(self, subscription: Subscription, begin: dict[Partition, int]) -> None:
        if any(begin.get(key, 0) < floor for key, floor in self._floor.items()):
            subscription.lose(0, _TOO_OLD)
        missed = [
            event
            for event in self._ring
            if event.offset >= begin.get(event.partition, 0)
            and subscription.selection.wants(event.news)
        ]
        excess = len(missed) - self._capacity
        if excess > 0:
            subscription.lose(excess, _TOO_OLD)
        for event in missed[max(excess, 0) :]:
            subscription.put(event)
