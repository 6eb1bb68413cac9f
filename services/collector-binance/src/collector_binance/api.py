"""CollectorService: what is collected, how it fares, and what to change about it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import grpc.aio
from google.longrunning.operations_pb2 import Operation
from google.protobuf.timestamp_pb2 import Timestamp

from coinmesh_audit.log import AuditLog, actor_of
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.collector.v1 import collector_service_pb2_grpc as pb_grpc
from coinmesh_contracts.events.v1.audit_event_pb2 import (
    AUDIT_ACTION_SUBSCRIPTION_ADD,
    AUDIT_ACTION_SUBSCRIPTION_REMOVE,
    AuditAction,
)
from collector_binance.backfills import Backfills
from collector_binance.collector import Collector
from collector_binance.connections import Connections
from collector_binance.core.engine import Engine
from collector_binance.core.instruments import VENUE, instrument_name
from collector_binance.core.market import Market
from collector_binance.core.messages import Channel
from meshkit.errors import InvalidArgument, NotFound, Unavailable

_Context = grpc.aio.ServicerContext[object, object]
_MOST = 1000
_STATES = {
    "live": pb.STREAM_STATE_LIVE,
    "buffering": pb.STREAM_STATE_BUFFERING,
    "stale": pb.STREAM_STATE_STALE,
    "silent": pb.STREAM_STATE_SILENT,
}


class CollectorService(pb_grpc.CollectorServiceServicer):
    """The servicer; `stop` ends the process, `log` has every change on record before it is made."""

    def __init__(self, collector: Collector, stop: Callable[[], None], log: AuditLog) -> None:
        self._collector, self._log = collector, log
        self._backfills = Backfills(collector)
        self._stop = stop

    async def GetStatus(  # noqa: N802
        self, request: pb.GetStatusRequest, context: _Context
    ) -> pb.CollectorStatus:
        """Connections, streams, weight and open gaps."""
        _check(request.collector)
        collector = self._collector
        budget = collector.rest.budget
        status = pb.CollectorStatus(
            collector=VENUE,
            start_time=_timestamp(collector.start_time.timestamp()),
            used_weight=budget.used(time.time()),
            weight_limit=budget.limit,
        )
        if collector.engine is None or collector.connections is None:
            return status
        for connection in collector.connections.open.values():
            link = collector.engine.links.get(connection.name)
            status.connections.add(
                connection=connection.name,
                url=connection.url,
                connect_time=_timestamp(connection.connect_time.timestamp()),
                messages=link.messages if link else 0,
                streams=len(connection.streams),
            )
        for symbol in collector.connections.symbols:
            market = collector.engine.markets.get(symbol)
            if market is not None:
                status.streams.extend(_stream(market, channel) for channel in Channel)
                status.open_gaps += len(market.gaps.open_holes)
        return status

    async def ListSubscriptions(  # noqa: N802
        self, request: pb.ListSubscriptionsRequest, context: _Context
    ) -> pb.ListSubscriptionsResponse:
        """Instruments in order of their names."""
        _check(request.collector)
        _, connections = self._running()
        if request.page_size < 0:
            raise InvalidArgument(
                "PAGE_SIZE_INVALID", "page_size must not be negative", field="page_size"
            )
        after = _decode_token(request.page_token)
        infos = self._collector.catalogue.infos
        names = sorted(instrument_name(each, infos.get(each)) for each in connections.symbols)
        rest = [name for name in names if name > after]
        size = min(request.page_size or 100, _MOST)
        page = rest[:size]
        token = _encode_token(page[-1]) if len(rest) > size else ""
        return pb.ListSubscriptionsResponse(
            subscriptions=[_subscription(name) for name in page], next_page_token=token
        )

    async def AddSubscription(  # noqa: N802
        self, request: pb.AddSubscriptionRequest, context: _Context
    ) -> pb.Subscription:
        """Begin to collect an instrument."""
        _check(request.collector)
        self._running()
        if not request.subscription.instrument:
            raise InvalidArgument(
                "INSTRUMENT_MISSING",
                "subscription.instrument is empty; name one like binance.BTC-USDT",
                field="subscription.instrument",
            )
        symbol = self._collector.catalogue.symbol_of(request.subscription.instrument)
        name = instrument_name(symbol, self._collector.catalogue.infos[symbol])
        async with self._on_record(AUDIT_ACTION_SUBSCRIPTION_ADD, name, context):
            await self._collector.add(symbol)
        return _subscription(name)

    async def RemoveSubscription(  # noqa: N802
        self, request: pb.RemoveSubscriptionRequest, context: _Context
    ) -> pb.RemoveSubscriptionResponse:
        """Stop collecting an instrument."""
        _check(request.collector)
        _, connections = self._running()
        # One that the exchange has delisted is no longer in its catalogue.
        infos = self._collector.catalogue.infos
        collected = {instrument_name(each, infos.get(each)): each for each in connections.symbols}
        symbol = collected.get(request.instrument) or request.instrument.upper()
        if symbol not in connections.symbols:
            symbol = self._collector.catalogue.symbol_of(request.instrument)
        name = instrument_name(symbol, infos.get(symbol))
        async with self._on_record(AUDIT_ACTION_SUBSCRIPTION_REMOVE, name, context):
            if not await connections.remove(symbol):
                raise NotFound(
                    "SUBSCRIPTION_NOT_FOUND",
                    f"{request.instrument} is not collected",
                    instrument=request.instrument,
                )
        return pb.RemoveSubscriptionResponse()

    async def Backfill(self, request: pb.BackfillRequest, context: _Context) -> Operation:  # noqa: N802
        """Begin to read past trades that the topic lacks."""
        _check(request.collector)
        self._running()
        symbol = self._collector.catalogue.symbol_of(request.instrument)
        if request.WhichOneof("range") != "ids" or {*request.channels} - {Channel.TRADE.value}:
            raise InvalidArgument(
                "BACKFILL_UNSUPPORTED",
                "Binance's history can be read for the channel trade, by ids",
                field="range",
            )
        return self._backfills.start(symbol, request.ids.first, request.ids.last)

    async def GetBackfill(self, request: pb.GetBackfillRequest, context: _Context) -> Operation:  # noqa: N802
        """How far a backfill is."""
        _check(request.collector)
        return self._backfills.get(request.backfill)

    async def RetryGap(  # noqa: N802
        self, request: pb.RetryGapRequest, context: _Context
    ) -> pb.RetryGapResponse:
        """Reopen a gap that was given up, or repeat the repair of an open one."""
        _check(request.collector)
        self._running()
        if not self._collector.retry_gap(request.gap_id):
            raise NotFound(
                "GAP_NOT_FOUND",
                f"no gap {request.gap_id!r} is open or was given up; `coinmesh gaps list` "
                "shows the gaps",
                gap_id=request.gap_id,
            )
        return pb.RetryGapResponse()

    async def Drain(self, request: pb.DrainRequest, context: _Context) -> pb.DrainResponse:  # noqa: N802
        """End the process once this has been answered."""
        _check(request.collector)
        asyncio.get_running_loop().call_later(0.1, self._stop)
        return pb.DrainResponse()

    def _on_record(
        self, action: AuditAction.ValueType, instrument: str, context: _Context
    ) -> AbstractAsyncContextManager[None]:
        actor = actor_of(context)
        return self._log.recorded(action, actor=actor, object=instrument, instrument=instrument)

    def _running(self) -> tuple[Engine, Connections]:
        engine, connections = self._collector.engine, self._collector.connections
        if engine is None or connections is None:
            raise Unavailable(
                "COLLECTOR_STARTING",
                "the collector waits for the registry, Kafka or the exchange; its log says which",
            )
        return engine, connections


def _check(collector: str) -> None:
    if collector != VENUE:
        raise NotFound(
            "COLLECTOR_NOT_FOUND",
            f"this is collector {VENUE}, not {collector!r}",
            collector=collector,
        )


def _stream(market: Market, channel: Channel) -> pb.StreamStatus:
    stream = market.stream(channel)
    return pb.StreamStatus(
        instrument=market.encoder.instrument,
        channel=channel.value,
        state=_STATES[market.state(channel, time.time_ns())],
        last_id=max(0, stream.last_id or 0),
        event_time=_timestamp(stream.last_time / 1e6) if stream.last_time else None,
        events=stream.events,
        duplicates=stream.duplicates,
        gaps=market.gaps.opened[channel],
    )


def _subscription(instrument: str) -> pb.Subscription:
    return pb.Subscription(instrument=instrument, channels=[channel.value for channel in Channel])


def _encode_token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _decode_token(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument(
            "PAGE_TOKEN_INVALID",
            "page_token is not one that this method gave; begin without one",
            field="page_token",
        ) from error


def _timestamp(seconds: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1_000_000))
    return timestamp
