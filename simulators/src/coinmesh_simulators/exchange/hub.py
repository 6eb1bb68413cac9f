"""Fan-out: one serialized WebSocket frame for all subscribers of a stream and form."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

from coinmesh_simulators.exchange.faults import Faults

Payload = Callable[[bool], bytes]
"""Builds a stream's payload; the argument is true for times in microseconds, else milliseconds."""


def text_frame(payload: bytes) -> bytes:
    """Return a complete unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65_536:
        return b"\x81\x7e" + struct.pack("!H", size) + payload
    return b"\x81\x7f" + struct.pack("!Q", size) + payload


def envelope(stream: str, payload: bytes) -> bytes:
    """Return a combined-stream message with the payload's bytes unchanged."""
    return b'{"stream":"' + stream.encode() + b'","data":' + payload + b"}"


class Subscriber(Protocol):
    """The hub's interface of a connection."""

    micro: bool
    combined: bool
    streams: dict[str, None]

    def queue(self, frame: bytes) -> None:
        """Queue a frame for the next `flush`."""
        ...

    def flush(self) -> None:
        """Write the queued frames; cut a connection whose buffer is full."""
        ...


class Hub:
    """Subscriptions of connections to streams, and the delivery of frames."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._subscribers: dict[str, dict[tuple[bool, bool], set[Subscriber]]] = {}
        self._dirty: set[Subscriber] = set()
        self._held: dict[str, list[tuple[tuple[bool, bool], bytes]]] = {}
        self.published: dict[str, int] = defaultdict(int)
        self.on_subscribed: Callable[[], None] = lambda: None

    def subscribe(self, subscriber: Subscriber, streams: Iterable[str]) -> None:
        """Subscribe a connection to streams, in its current form."""
        form = (subscriber.micro, subscriber.combined)
        for stream in streams:
            members = self._subscribers.setdefault(stream, {}).setdefault(form, set())
            members.add(subscriber)
        self.on_subscribed()

    def unsubscribe(self, subscriber: Subscriber, streams: Iterable[str]) -> None:
        """Unsubscribe a connection from streams."""
        form = (subscriber.micro, subscriber.combined)
        for stream in streams:
            forms = self._subscribers.get(stream, {})
            members = forms.get(form)
            if members is not None:
                members.discard(subscriber)
                if not members:
                    del forms[form]
                    if not forms:
                        del self._subscribers[stream]

    def wanted(self, stream: str) -> bool:
        """Return whether a stream has subscribers."""
        return stream in self._subscribers

    def publish(self, stream: str, payload: Payload) -> None:
        """Queue an event for all subscribers of its stream."""
        forms = self._subscribers.get(stream)
        if not forms:
            return
        self.published[stream.partition("@")[2]] += 1
        built: dict[bool, bytes] = {}
        frames: list[tuple[tuple[bool, bool], bytes]] = []
        malformed = False
        fates = self.faults.fates(stream) if self.faults.active else ()
        if "malformed" in fates:
            malformed = True
        for form in forms:
            micro, combined = form
            body = built.get(micro)
            if body is None:
                body = built[micro] = payload(micro)
            message = envelope(stream, body) if combined else body
            if malformed:
                message = message[: len(message) // 2]
            frames.append((form, text_frame(message)))
        if fates:
            self._deliver_faulty(stream, frames, fates)
        else:
            self._deliver(stream, frames)

    def _deliver_faulty(
        self,
        stream: str,
        frames: list[tuple[tuple[bool, bool], bytes]],
        fates: dict[str, float],
    ) -> None:
        if "drop" in fates:
            return
        if "reorder" in fates and stream not in self._held:
            self._held[stream] = frames
            return
        copies = 2 if "duplicate" in fates else 1
        if "delay" in fates:
            loop = asyncio.get_running_loop()
            loop.call_later(fates["delay"], self._deliver_late, stream, frames * copies)
        else:
            self._deliver(stream, frames * copies)

    def _deliver_late(self, stream: str, frames: list[tuple[tuple[bool, bool], bytes]]) -> None:
        self._deliver(stream, frames)
        self.flush()

    def _deliver(self, stream: str, frames: list[tuple[tuple[bool, bool], bytes]]) -> None:
        held = self._held.pop(stream, None) if self._held else None
        forms = self._subscribers.get(stream)
        if forms is None:
            return
        for form, frame in frames + held if held else frames:
            for subscriber in forms.get(form, ()):
                subscriber.queue(frame)
                self._dirty.add(subscriber)

    def flush(self) -> None:
        """Write all queued frames."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        for subscriber in dirty:
            subscriber.flush()
