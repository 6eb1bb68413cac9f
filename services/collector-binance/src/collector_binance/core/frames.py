"""Recording: every input as it was given, in batches per connection, for `ingest.frames.v1`."""

from __future__ import annotations

from typing import Final

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.frame_batch_pb2 import Frame, FrameBatch
from collector_binance.core.encode import Record
from collector_binance.core.engine import Input
from collector_binance.core.instruments import VENUE

FLUSH_BYTES: Final = 256 * 1024
_OVERHEAD: Final = 24  # of a frame's other fields, about


class FrameRecorder:
    """Collects frames and turns them into records; the caller says when."""

    def __init__(self, schema_id: int) -> None:
        self._header = framing.header(schema_id)
        self._batches: dict[str, list[Frame]] = {}
        self._sizes: dict[str, int] = {}

    def add(self, given: Input, sequence: int) -> Record | None:
        """Note an input at its place in the session; a full batch comes back as a record."""
        frame = Frame(
            kind=given.kind,
            receive_time=given.receive_ns,
            payload=given.payload,
            context=given.context,
            status=given.status,
            sequence=sequence,
        )
        connection = given.connection
        size = self._sizes.get(connection, 0) + len(given.payload) + _OVERHEAD
        self._sizes[connection] = size
        self._batches.setdefault(connection, []).append(frame)
        return self._take(connection) if size >= FLUSH_BYTES else None

    def flush(self) -> list[Record]:
        """Everything that has been noted and not been returned yet."""
        return [self._take(connection) for connection in list(self._batches)]

    def _take(self, connection: str) -> Record:
        frames = self._batches.pop(connection)
        self._sizes.pop(connection, None)
        batch = FrameBatch(
            event_id=f"{connection}:frames:{frames[0].sequence}",
            receive_time=frames[0].receive_time,
            source=VENUE,
            type=EventType.EVENT_TYPE_FRAMES,
            connection=connection,
            first_sequence=frames[0].sequence,
            frames=frames,
        )
        value = self._header + batch.SerializeToString()
        return topics.FRAMES.name, connection.encode(), value
