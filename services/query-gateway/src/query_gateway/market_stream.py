"""The live stream: batches of shared encodings, heartbeats, gaps, and an error when it closes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, cast

import grpc.aio

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.market_service_pb2_grpc import (
    MarketServiceServicer,
    add_MarketServiceServicer_to_server,
)
from coinmesh_contracts.market.v1.stream_pb2 import (
    Heartbeat,
    StreamGap,
    StreamGapReason,
    StreamMarketResponse,
)
from meshkit.errors import InvalidArgument, Unavailable
from query_gateway import intervals, requests
from query_gateway.coverage import Coverage
from query_gateway.hub import Hub, Selection, Subscription, varint
from query_gateway.rendering import time_of_ns

CHANNELS: Final = ("trade", "quote", "bar")
BATCH_EVENTS: Final = 100
BATCH_SECONDS: Final = 0.01
HEARTBEAT_SECONDS: Final = 5.0
_MAX_INSTRUMENTS: Final = 1000
_SOURCE: Final = {"bar": "trade"}
_BATCH_FIELD: Final = b"\x0a"
_TOKEN_FIELD: Final = b"\x2a"


class MarketStream:
    """Serves the hub's subscribers.

    Args:
        hub: Source of events.
        coverage: Staleness of data, for heartbeats.
        clock: Returns the time in nanoseconds, for heartbeats.
    """

    def __init__(
        self, hub: Hub, coverage: Coverage, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._hub, self._coverage, self._clock = hub, coverage, clock

    def read(self, request: api.StreamMarketRequest) -> AsyncGenerator[bytes, None]:
        """Return the encoded messages for one subscriber.

        Raises:
            InvalidArgument: MISSING_INSTRUMENT, TOO_MANY_INSTRUMENTS, UNKNOWN_CHANNEL,
                UNKNOWN_INTERVAL, BAD_RESUME_TOKEN.
        """
        subscription = self._hub.subscribe(select(request), request.resume_token)
        return self._messages(subscription)

    async def _messages(self, subscription: Subscription) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        try:
            # The first message confirms the stream and its position.
            yield self._heartbeat(subscription)
            beat = sent = loop.time()
            while True:
                await subscription.wait(max(0.0, beat + HEARTBEAT_SECONDS - loop.time()))
                if len(subscription) < BATCH_EVENTS:
                    # A batch gathers for a moment, but only after another one.
                    await asyncio.sleep(max(0.0, sent + BATCH_SECONDS - loop.time()))
                self._hub.give_up_ahead(subscription)
                # Taken together: events dropped while the gap is sent come after these events.
                gap = subscription.take_gap()
                told = None if gap is None else _gap(subscription, *gap)
                events = subscription.take(BATCH_EVENTS, self._hub.head)
                token = subscription.token
                if told is not None:
                    yield told
                if events:
                    yield encode_batch(events, token)
                    sent = loop.time()
                elif subscription.closed:
                    yield _farewell(subscription)
                    return
                # Also between batches: a stale instrument must be reported next to busy ones.
                if loop.time() >= beat + HEARTBEAT_SECONDS:
                    yield self._heartbeat(subscription)
                    beat = loop.time()
        finally:
            self._hub.unsubscribe(subscription)

    def _heartbeat(self, subscription: Subscription) -> bytes:
        selection = subscription.selection
        channels = {_SOURCE.get(channel, channel) for channel, _ in selection.kinds}
        stale = (n for n in selection.instruments if self._coverage.is_stale(n, channels))
        heartbeat = Heartbeat(time=time_of_ns(self._clock()), stale_instruments=sorted(stale))
        message = StreamMarketResponse(heartbeat=heartbeat, resume_token=subscription.token)
        return message.SerializeToString()


def select(request: api.StreamMarketRequest) -> Selection:
    """Return the selection of a request; everything but the instruments' names is checked."""
    if not request.instruments:
        raise InvalidArgument(
            "MISSING_INSTRUMENT",
            'instruments is empty; name at least one, for example "binance.BTC-USDT"',
            field="instruments",
        )
    if len(request.instruments) > _MAX_INSTRUMENTS:
        raise InvalidArgument(
            "TOO_MANY_INSTRUMENTS",
            f"{len(request.instruments)} instruments are named; at most {_MAX_INSTRUMENTS} fit "
            "one stream",
            field="instruments",
        )
    for channel in request.channels:
        requests.one_of("channel", "UNKNOWN_CHANNEL", channel, CHANNELS)
    chosen = {intervals.parse_stored(name).name for name in request.intervals}
    return Selection(request.instruments, request.channels or CHANNELS, chosen or {"1m"})


def encode_batch(events: Sequence[bytes], token: str) -> bytes:
    """Return a StreamMarketResponse with a batch of events that are already encoded."""
    body = b"".join(events)
    text = token.encode()
    return b"".join((_BATCH_FIELD, varint(len(body)), body, _TOKEN_FIELD, varint(len(text)), text))


def _gap(subscription: Subscription, dropped: int, reason: StreamGapReason.ValueType) -> bytes:
    message = StreamMarketResponse(
        gap=StreamGap(dropped=dropped, reason=reason), resume_token=subscription.token
    )
    return message.SerializeToString()


def _farewell(subscription: Subscription) -> bytes:
    error = Unavailable(
        "DRAINING",
        "this replica stops; open the stream again with the resume token",
        retry_after_seconds=1,
    )
    message = StreamMarketResponse(error=error.to_status(), resume_token=subscription.token)
    return message.SerializeToString()


def add_market_service(servicer: MarketServiceServicer, server: Any) -> None:
    """Register MarketService, whose stream yields messages that are already encoded."""
    add_MarketServiceServicer_to_server(servicer, cast(grpc.aio.Server, _Registration(server)))


class _Registration:
    """Forwards the generated registration without the stream's serializer."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Do nothing; `add_registered_method_handlers` receives the same handlers by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        made = handlers["StreamMarket"]
        raw = grpc.unary_stream_rpc_method_handler(
            made.unary_stream, made.request_deserializer, bytes
        )
        changed = {**handlers, "StreamMarket": raw}
        generic = grpc.method_handlers_generic_handler(service, changed)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, changed)
