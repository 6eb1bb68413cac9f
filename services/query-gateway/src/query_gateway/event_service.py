"""EventService: any topic as lines of minimal JSON, each call with its own consumer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import grpc.aio
from google.api.httpbody_pb2 import HttpBody

from coinmesh_contracts import topics
from coinmesh_contracts.query.v1 import event_service_pb2 as api
from coinmesh_contracts.query.v1.event_service_pb2_grpc import (
    EventServiceServicer,
    add_EventServiceServicer_to_server,
)
from meshkit.consumer import Consumer, Keyed, Tail
from meshkit.decoding import Decoder
from meshkit.errors import InvalidArgument, ResourceExhausted, Unavailable
from meshkit.resources import Resource
from query_gateway import requests
from query_gateway.event_lines import EventLines
from query_gateway.settings import GatewaySettings

add_event_service = add_EventServiceServicer_to_server
Context = grpc.aio.ServicerContext[Any, Any]
TOPICS: Final = tuple(
    topic.name
    for topic in topics.ALL
    if topic.message is not None
    and not topic.name.startswith(("alerts.rules", "audit.", "ingest.checkpoints"))
)
_MAX_LAST: Final = 10_000
_CONTENT_TYPE: Final = "application/x-ndjson"
_BATCH: Final = 200
_RETRY_SECONDS: Final = 5.0


class EventService(EventServiceServicer, Resource):
    """Streams topics.

    Args:
        settings: Kafka connection and the maximum number of streams.
        decoder: Decodes the topics' values.
        live: Returns whether Kafka is reachable.
    """

    def __init__(
        self, settings: GatewaySettings, decoder: Decoder, live: Callable[[], bool]
    ) -> None:
        self._settings, self._lines, self._live = settings, EventLines(decoder), live
        self._running = 0

    async def StreamEvents(  # noqa: N802
        self, request: api.StreamEventsRequest, context: Context
    ) -> AsyncGenerator[HttpBody, None]:
        """Stream lines of JSON, one event each.

        Raises:
            InvalidArgument: UNKNOWN_TOPIC, TOO_LARGE, NEGATIVE_SIZE.
            ResourceExhausted: TOO_MANY_EVENT_STREAMS.
            Unavailable: KAFKA_UNAVAILABLE.
        """
        topic = requests.one_of("topic", "UNKNOWN_TOPIC", request.topic, TOPICS)
        last = requests.strict_size("last", request.last, 0, _MAX_LAST)
        if request.limit < 0:
            raise InvalidArgument(
                "NEGATIVE_SIZE", f"limit is {request.limit}; 0 means no limit", field="limit"
            )
        if not self._live():
            raise Unavailable(
                "KAFKA_UNAVAILABLE",
                "events can't be read now, because Kafka doesn't answer; try again in a few "
                "seconds",
                retry_after_seconds=_RETRY_SECONDS,
            )
        most = self._settings.event_streams
        if self._running >= most:
            raise ResourceExhausted(
                "TOO_MANY_EVENT_STREAMS",
                f"{most} event streams run already; try again when one has ended",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._running += 1
        try:
            async for body in self._bodies(topic, request.instrument, last, request.limit):
                yield body
        finally:
            self._running -= 1

    async def close(self) -> None:
        """Stop the rendering thread."""
        await self._lines.close()

    async def _bodies(
        self, topic: str, instrument: str, last: int, limit: int
    ) -> AsyncGenerator[HttpBody, None]:
        client = f"{self._settings.service_name}-events-{time.monotonic_ns()}"
        start = Tail(last) if last else "end"
        keyed = instrument and topics.BY_NAME[topic].key == "instrument"
        source = Keyed(topic, instrument.encode()) if keyed else topic
        async with Consumer.assigned(self._settings, [source], start, client_id=client) as consumer:
            # Sends headers and content type before the first event.
            yield HttpBody(content_type=_CONTENT_TYPE)
            left = limit or -1
            async for batch in consumer.batches(_BATCH):
                lines = await self._lines.render(batch, instrument)
                if left > 0:
                    lines = lines[:left]
                    left -= len(lines)
                if lines:
                    data = "\n".join([*lines, ""]).encode()
                    yield HttpBody(content_type=_CONTENT_TYPE, data=data)
                if left == 0:
                    return
