"""Records every input as received, in batches per connection, for `ingest.frames.v1`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.frame_batch_pb2 import Frame, FrameBatch, FrameKind
from coinmesh_sources.inputs import Input, Record

FLUSH_BYTES: Final = 256 * 1024
MAX_INPUT_BYTES: Final = topics.MAX_MESSAGE_BYTES - 2 * FLUSH_BYTES
"""The largest input that fits into a Kafka record together with the rest of an unflushed batch."""
_TAG: Final = bytes([FrameBatch.FRAMES_FIELD_NUMBER << 3 | 2])


Element = Callable[[bytes, int, int], bytes]
"""Serializes a message, its receive time and its sequence as an element of FrameBatch.frames."""


@lru_cache(maxsize=8192)
def _head(size: int) -> bytes:
    """Return the tag and length varint of an element of FrameBatch.frames."""
    head = bytearray(_TAG)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


@dataclass(slots=True)
class _Batch:
    """Serialized elements of one connection."""

    first_sequence: int
    receive_ns: int
    parts: list[bytes] = field(default_factory=list)
    size: int = 0


class FrameRecorder:
    """Collects frames and converts them into records when the caller flushes it.

    A frame is serialized when it is added, and a batch is the concatenation of its frames.

    Args:
        source: The source, as in each event.
        schema_id: The registry's id of the topic's schema.
        element: A faster serializer of messages with the same result.
        epoch: Lease epoch of the writer.
    """

    def __init__(
        self, source: str, schema_id: int, *, element: Element | None = None, epoch: int = 0
    ) -> None:
        self._source, self._epoch = source, epoch
        self._header = framing.header(schema_id)
        self._batches: dict[str, _Batch] = {}
        # Reused: every field that varies between messages is set each time.
        self._message = Frame(kind=FrameKind.FRAME_KIND_MESSAGE)
        self._element: Element = element or self._serialize

    def message(
        self, payload: bytes, receive_ns: int, connection: str, sequence: int
    ) -> Record | None:
        """Add a WebSocket message with its sequence; return the batch if it is full."""
        data = self._element(payload, receive_ns, sequence)
        return self._add(connection, data, receive_ns, sequence)

    def add(self, given: Input, sequence: int) -> Record | None:
        """Add any input, as `message` does."""
        frame = Frame(
            kind=given.kind,
            receive_time=given.receive_ns,
            payload=given.payload,
            context=given.context,
            status=given.status,
            sequence=sequence,
        )
        data = frame.SerializeToString()
        element = _head(len(data)) + data
        return self._add(given.connection, element, given.receive_ns, sequence)

    def flush(self) -> list[Record]:
        """Return all batches that were not returned yet."""
        return [self._take(connection) for connection in list(self._batches)]

    def _serialize(self, payload: bytes, receive_ns: int, sequence: int) -> bytes:
        frame = self._message
        frame.payload = payload
        frame.receive_time = receive_ns
        frame.sequence = sequence
        data = frame.SerializeToString()
        return _head(len(data)) + data

    def _add(
        self, connection: str, element: bytes, receive_ns: int, sequence: int
    ) -> Record | None:
        batch = self._batches.get(connection)
        if batch is None:
            batch = self._batches[connection] = _Batch(sequence, receive_ns)
        batch.parts.append(element)
        batch.size += len(element)
        return self._take(connection) if batch.size >= FLUSH_BYTES else None

    def _take(self, connection: str) -> Record:
        batch = self._batches.pop(connection)
        fixed = FrameBatch(
            event_id=f"{connection}:frames:{batch.first_sequence}",
            receive_time=batch.receive_ns,
            source=self._source,
            type=EventType.EVENT_TYPE_FRAMES,
            connection=connection,
            first_sequence=batch.first_sequence,
            epoch=self._epoch,
        )
        value = b"".join((self._header, fixed.SerializeToString(), *batch.parts))
        return topics.FRAMES.name, connection.encode(), value
