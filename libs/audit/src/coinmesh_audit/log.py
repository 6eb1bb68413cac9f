"""The audit log: one hash chain per writer on `audit.events.v1`.

`record` waits until Kafka has acknowledged the record and raises if that fails: for actions that
require a record. `note` returns at once: for events that can't be prevented, such as denials.
Events beyond the buffer are counted, and the count is recorded itself, so that no loss is silent.

A chain has one writer at a time: it writes in transactions with its own id, which fences an older
process of the same name, and starts from the last record on the topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from confluent_kafka import KafkaException

from coinmesh_audit.writer import CALL_SECONDS, AuditSettings, ChainWriter, Writer
from coinmesh_contracts import topics
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_contracts.events.v1 import event_type_pb2
from meshkit import rotation
from meshkit.authz import EDGE
from meshkit.backoff import Backoff
from meshkit.calls import Call
from meshkit.errors import MeshError, Unavailable
from meshkit.metrics import Metrics
from meshkit.peer import caller
from meshkit.resources import Resource

__all__ = ["AuditLog", "AuditSettings", "AuditUnavailable", "actor_of", "name_of"]
_log = logging.getLogger(__name__)

USER_HEADER = "x-coinmesh-user"
BUFFERED = 1_000
BATCH = 100
# One failed attempt and one successful attempt; less than the default deadline of a call, so that
# the caller receives the reason.
RECORD_SECONDS = 2 * CALL_SECONDS + 1.0
# Time for which equal events are counted together before they are written.
GATHER_SECONDS = 1.0
CLOSE_SECONDS = 10.0
MAX_DETAIL = 500
TOPIC = topics.AUDIT.name
ALLOWED, DENIED, FAILED = (
    pb.AUDIT_OUTCOME_ALLOWED,
    pb.AUDIT_OUTCOME_DENIED,
    pb.AUDIT_OUTCOME_FAILED,
)


class AuditUnavailable(Unavailable):
    """The action isn't done because it can't be recorded."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "AUDIT_UNAVAILABLE",
            f"not done, because it can't be recorded on {TOPIC}: {why}; try again once "
            "`coinmesh status` shows Kafka and the registry ready",
        )


class _Entry:
    """A pending event, and the future that waits for it."""

    def __init__(self, event: pb.AuditEvent, done: asyncio.Future[None] | None) -> None:
        self.event, self.done = event, done


class AuditLog(Resource):
    """One writer's log."""

    def __init__(
        self,
        settings: AuditSettings,
        *,
        source: str,
        writer: Writer | None = None,
    ) -> None:
        """Create the log without connecting.

        Args:
            settings: Kafka, the registry, and the writer's name.
            source: The service's name.
            writer: Appends to the chain; by default a `ChainWriter`.
        """
        self._source = source
        self._writer = writer or ChainWriter(settings, settings.audit_writer or source)
        self._waiting: deque[_Entry] = deque()
        self._sending: list[_Entry] = []
        self._noted: dict[tuple[object, ...], _Entry] = {}
        self._appending: asyncio.Future[None] | None = None
        self._lost = self._lost_in_all = 0
        self._ready, self._urgent = asyncio.Event(), asyncio.Event()
        self._lock = asyncio.Lock()
        self._problem = "Kafka hasn't answered yet"

    def register(self, metrics: Metrics) -> None:
        """Add the counts of records to the process's metrics."""
        metrics.read_counter(
            "audit_records_lost",
            "Events for which there was no room in the audit log's buffer",
            (),
            lambda: {(): self._lost_in_all},
        )
        metrics.read_gauge(
            "audit_records_waiting",
            "Audit records that Kafka doesn't have yet",
            (),
            lambda: {(): len(self._waiting) + len(self._sending)},
        )

    async def __aenter__(self) -> AuditLog:
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.close()

    def note(
        self,
        action: pb.AuditAction.ValueType,
        outcome: pb.AuditOutcome.ValueType,
        *,
        actor: str,
        object: str,  # noqa: A002
        detail: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Record an event without waiting; an event equal to a pending one increments its count."""
        event = self._event(
            action, outcome, actor=actor, what=object, detail=detail, metadata=metadata
        )
        facts = frozenset(event.metadata.items())
        like = (action, outcome, actor, object, event.detail, facts)
        if (noted := self._noted.get(like)) is not None:
            noted.event.count += 1
        elif len(self._waiting) >= BUFFERED:
            self._lost += 1
            self._lost_in_all += 1
        else:
            entry = self._noted[like] = _Entry(event, None)
            self._put(entry)

    async def record(
        self,
        action: pb.AuditAction.ValueType,
        outcome: pb.AuditOutcome.ValueType,
        *,
        actor: str,
        object: str,  # noqa: A002
        detail: str = "",
        metadata: Mapping[str, str] | None = None,
        instrument: str = "",
    ) -> None:
        """Record an event and return once Kafka has it; call it before the action.

        Raises:
            AuditUnavailable: It wasn't acknowledged within `RECORD_SECONDS`, or the buffer is full.
                It may still be written: then a record follows that the action failed.
        """
        if len(self._waiting) >= BUFFERED:
            raise AuditUnavailable(f"{BUFFERED} records wait already")
        event = self._event(
            action, outcome, actor=actor, what=object, detail=detail, metadata=metadata
        )
        event.instrument = instrument
        entry = _Entry(event, asyncio.get_running_loop().create_future())
        self._put(entry)
        self._urgent.set()
        assert entry.done is not None
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                await entry.done
        except BaseException as error:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:  # the writer may still write it
                gave_up = isinstance(error, TimeoutError)
                why = "AUDIT_UNAVAILABLE" if gave_up else type(error).__name__
                self.note(action, FAILED, actor=actor, object=object, detail=why, metadata=metadata)
            if isinstance(error, TimeoutError):
                raise AuditUnavailable(self._problem) from None
            raise

    @asynccontextmanager
    async def recorded(
        self,
        action: pb.AuditAction.ValueType,
        *,
        actor: str,
        object: str,  # noqa: A002
        detail: str = "",
        metadata: Mapping[str, str] | None = None,
        instrument: str = "",
    ) -> AsyncGenerator[None, None]:
        """Record an action, run the body, and record its failure if it raises.

        Raises:
            AuditUnavailable: The action can't be recorded, and the body isn't run.
        """
        await self.record(
            action,
            ALLOWED,
            actor=actor,
            object=object,
            detail=detail,
            metadata=metadata,
            instrument=instrument,
        )
        try:
            yield
        except BaseException as error:
            why = error.reason if isinstance(error, MeshError) else type(error).__name__
            self.note(action, FAILED, actor=actor, object=object, detail=why, metadata=metadata)
            raise

    def on_denied(self, call: Call, denial: MeshError) -> None:
        """Record a call that authorization rejected."""
        self.note(
            pb.AUDIT_ACTION_CALL,
            DENIED,
            actor=actor_of(call.context),
            object=call.method,
            detail=denial.reason,
        )

    async def run(self) -> None:
        """Write records until cancelled; retry while Kafka doesn't accept them."""
        backoff = Backoff(base=0.1, cap=5.0)
        while True:
            await self._until_ready()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._urgent.wait()
            if await self._try_to_write():
                backoff.reset()
            else:
                await backoff.wait()

    async def close(self) -> None:
        """Write pending records; AuditUnavailable if that takes longer than `CLOSE_SECONDS`."""
        backoff = Backoff(base=0.1, cap=1.0)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._sending or self._waiting or self._lost:
                    if not await self._try_to_write():
                        await backoff.wait()
        except TimeoutError as error:
            left = len(self._sending) + len(self._waiting)
            raise AuditUnavailable(f"{left} records are left ({self._problem})") from error
        finally:
            await asyncio.to_thread(self._writer.close)

    async def _until_ready(self) -> None:
        """Wait for something to write; meanwhile release connections with an old certificate."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rotation.CHECK_SECONDS):
                    await self._ready.wait()
                return
            async with self._lock:
                if self._appending is None:
                    await asyncio.to_thread(self._writer.renew_if_due)

    async def _try_to_write(self) -> bool:
        """Write a batch; log and return False if Kafka or the registry doesn't accept it."""
        try:
            await self._write()
        except (KafkaException, MeshError) as error:
            self._problem = error.message if isinstance(error, MeshError) else str(error)
            _log.warning("the audit log can't be written: %s; retrying", self._problem)
            return False
        return True

    async def _write(self) -> None:
        async with self._lock:
            if self._appending is None:
                self._take()
                events = [entry.event for entry in self._sending]
                self._appending = asyncio.ensure_future(
                    asyncio.to_thread(self._writer.append, events)
                )
            try:
                # If this caller is cancelled, the next one awaits the same batch.
                await asyncio.shield(self._appending)
            finally:
                if self._appending.done():
                    self._appending = None
            for entry in self._sending:
                _tell(entry.event)
                if entry.done is not None and not entry.done.done():
                    entry.done.set_result(None)
            self._sending = []
            if not (self._waiting or self._lost):
                self._ready.clear()
                self._urgent.clear()

    def _take(self) -> None:
        """Choose the next batch; after a failure the same again."""
        if self._sending:
            return
        self._sending = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        self._noted.clear()
        if self._lost:
            lost, self._lost = self._lost, 0
            self._sending.append(_Entry(self._loss(lost), None))

    def _put(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        self._ready.set()

    def _loss(self, count: int) -> pb.AuditEvent:
        event = self._event(
            pb.AUDIT_ACTION_RECORDS_LOST,
            FAILED,
            actor=f"svc:{self._source}",
            what=TOPIC,
            detail="events came faster than they could be put on record",
        )
        event.count = count
        return event

    def _event(
        self,
        action: pb.AuditAction.ValueType,
        outcome: pb.AuditOutcome.ValueType,
        *,
        actor: str,
        what: str,
        detail: str,
        metadata: Mapping[str, str] | None = None,
    ) -> pb.AuditEvent:
        now = time.time_ns()
        return pb.AuditEvent(
            event_time=now // 1_000,
            receive_time=now,
            source=self._source,
            type=event_type_pb2.EVENT_TYPE_AUDIT,
            action=action,
            outcome=outcome,
            actor=actor,
            object=what,
            detail=" ".join(detail.split())[:MAX_DETAIL],
            count=1,
            metadata=metadata or {},
        )


def actor_of(context: Any) -> str:
    """Return the actor of a call: the user for whom Envoy calls, else the calling service."""
    service = caller(context)
    if service is None:
        return "unknown"
    if service == EDGE:
        pairs = cast(Any, context.invocation_metadata() or ())
        users = [value for key, value in pairs if key == USER_HEADER]
        return f"user:{users[0]}" if len(users) == 1 and users[0] else "user:unknown"
    return f"svc:{service}"


def _tell(event: pb.AuditEvent) -> None:
    """Write the event to the log, and so to the log store."""
    _log.info(
        "audit",
        extra={
            "event_id": event.event_id,
            "action": name_of(pb.AuditAction.Name(event.action)),
            "outcome": name_of(pb.AuditOutcome.Name(event.outcome)),
            "actor": event.actor,
            "object": event.object,
            "detail": event.detail,
            "count": event.count,
        },
    )


def name_of(enum_name: str) -> str:
    """Return `AUDIT_ACTION_USER_PUT` in readable form: `user put`."""
    return enum_name.split("_", 2)[2].replace("_", " ").lower()
