"""CollectorService: state, subscriptions, backfills and gap repairs of a collector."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

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
from coinmesh_sources.backfills import Backfill, Backfills
from meshkit.errors import InvalidArgument, NotFound, Unavailable

_Context = grpc.aio.ServicerContext[object, object]
_MAX_PAGE: Final = 1000


class Source(Protocol):
    """A running collector, as required by CollectorService.

    Attributes:
        source: The source's name, which is the collector's name in the API.
        channels: The channels of each instrument.
    """

    source: str
    channels: Sequence[str]

    @property
    def is_running(self) -> bool:
        """Return whether collecting has begun: schemas, Kafka and the source were reachable."""
        ...

    def status(self) -> pb.CollectorStatus:
        """Return connections, streams, budget and open gaps."""
        ...

    def instruments(self) -> Sequence[str]:
        """Return the collected instruments, in order."""
        ...

    def resolve(self, instrument: str) -> str:
        """Return the canonical name of an instrument of the source.

        Raises:
            NotFound: The source has no such instrument.
        """
        ...

    async def subscribe(self, instrument: str) -> None:
        """Begin to collect an instrument; persists across restarts."""
        ...

    async def unsubscribe(self, instrument: str) -> None:
        """Stop collecting an instrument; persists across restarts.

        Raises:
            NotFound: The instrument is not collected.
        """
        ...

    def backfill(self, request: pb.BackfillRequest) -> Backfill:
        """Return the backfill of a request.

        Raises:
            InvalidArgument: Its range or channels are not supported.
            FailedPrecondition: The instrument is not collected.
        """
        ...

    def retry_gap(self, gap_id: str) -> bool:
        """Repair a gap again; return False if no gap of that id is open or was given up."""
        ...


class CollectorService(pb_grpc.CollectorServiceServicer):
    """The servicer of every collector.

    Args:
        source: The collector.
        stop: Stops the process.
        log: Audits every change before it is made.
    """

    def __init__(self, source: Source, stop: Callable[[], None], log: AuditLog) -> None:
        self._source, self._log = source, log
        self._backfills = Backfills(source.source)
        self._stop = stop

    async def GetStatus(  # noqa: N802
        self, request: pb.GetStatusRequest, context: _Context
    ) -> pb.CollectorStatus:
        """Return connections, streams, budget and open gaps."""
        self._check(request.collector)
        return self._source.status()

    async def ListSubscriptions(  # noqa: N802
        self, request: pb.ListSubscriptionsRequest, context: _Context
    ) -> pb.ListSubscriptionsResponse:
        """Return instruments in order of their names."""
        self._check_running(request.collector)
        if request.page_size < 0:
            raise InvalidArgument(
                "PAGE_SIZE_INVALID", "page_size must not be negative", field="page_size"
            )
        after = _decode_token(request.page_token)
        names = [name for name in self._source.instruments() if name > after]
        size = min(request.page_size or 100, _MAX_PAGE)
        page = names[:size]
        token = _encode_token(page[-1]) if len(names) > size else ""
        return pb.ListSubscriptionsResponse(
            subscriptions=[self._subscription(name) for name in page], next_page_token=token
        )

    async def AddSubscription(  # noqa: N802
        self, request: pb.AddSubscriptionRequest, context: _Context
    ) -> pb.Subscription:
        """Begin to collect an instrument."""
        self._check_running(request.collector)
        if not request.subscription.instrument:
            raise InvalidArgument(
                "INSTRUMENT_MISSING",
                "subscription.instrument is empty; name one, e.g. binance.BTC-USDT",
                field="subscription.instrument",
            )
        name = self._source.resolve(request.subscription.instrument)
        async with self._recorded(AUDIT_ACTION_SUBSCRIPTION_ADD, name, context):
            await self._source.subscribe(name)
        return self._subscription(name)

    async def RemoveSubscription(  # noqa: N802
        self, request: pb.RemoveSubscriptionRequest, context: _Context
    ) -> pb.RemoveSubscriptionResponse:
        """Stop collecting an instrument."""
        self._check_running(request.collector)
        name = self._source.resolve(request.instrument)
        async with self._recorded(AUDIT_ACTION_SUBSCRIPTION_REMOVE, name, context):
            await self._source.unsubscribe(name)
        return pb.RemoveSubscriptionResponse()

    async def Backfill(self, request: pb.BackfillRequest, context: _Context) -> Operation:  # noqa: N802
        """Begin to publish past events that the topics lack."""
        self._check_running(request.collector)
        return self._backfills.start(self._source.backfill(request))

    async def GetBackfill(self, request: pb.GetBackfillRequest, context: _Context) -> Operation:  # noqa: N802
        """Return the state of a backfill."""
        self._check(request.collector)
        return self._backfills.get(request.backfill)

    async def RetryGap(  # noqa: N802
        self, request: pb.RetryGapRequest, context: _Context
    ) -> pb.RetryGapResponse:
        """Reopen a gap that was given up, or repeat the repair of an open one."""
        self._check_running(request.collector)
        if not self._source.retry_gap(request.gap_id):
            raise NotFound(
                "GAP_NOT_FOUND",
                f"no gap {request.gap_id!r} is open or was given up; `coinmesh gaps list` "
                "shows the gaps",
                gap_id=request.gap_id,
            )
        return pb.RetryGapResponse()

    async def Drain(self, request: pb.DrainRequest, context: _Context) -> pb.DrainResponse:  # noqa: N802
        """Stop the process after this response."""
        self._check(request.collector)
        asyncio.get_running_loop().call_later(0.1, self._stop)
        return pb.DrainResponse()

    def _recorded(
        self, action: AuditAction.ValueType, instrument: str, context: _Context
    ) -> AbstractAsyncContextManager[None]:
        actor = actor_of(context)
        return self._log.recorded(action, actor=actor, object=instrument, instrument=instrument)

    def _subscription(self, instrument: str) -> pb.Subscription:
        return pb.Subscription(instrument=instrument, channels=self._source.channels)

    def _check(self, collector: str) -> None:
        if collector != self._source.source:
            raise NotFound(
                "COLLECTOR_NOT_FOUND",
                f"this is collector {self._source.source}, not {collector!r}",
                collector=collector,
            )

    def _check_running(self, collector: str) -> None:
        self._check(collector)
        if not self._source.is_running:
            raise Unavailable(
                "COLLECTOR_STARTING",
                "the collector is waiting for the registry, Kafka or its source; see its log",
            )


def _encode_token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _decode_token(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument(
            "PAGE_TOKEN_INVALID",
            "page_token was not returned by this method; omit it to start",
            field="page_token",
        ) from error


def timestamp(seconds: float) -> Timestamp:
    """Return seconds since the epoch as a Timestamp."""
    result = Timestamp()
    result.FromMicroseconds(round(seconds * 1_000_000))
    return result
