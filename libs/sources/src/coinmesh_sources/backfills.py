"""Backfills as long-running operations: publish past events that the topics lack."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Final, Protocol

from google.longrunning.operations_pb2 import Operation
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from meshkit.errors import MeshError, NotFound, Unavailable

_log = logging.getLogger(__name__)

KEPT: Final = 100
"""Number of operations, newest first, for which the state can be queried."""


class Backfill(Protocol):
    """The backfill of one request."""

    @property
    def next_id(self) -> int:
        """Return the first id that is still missing; the one after the last if none is."""
        ...

    @property
    def published(self) -> int:
        """Return the number of events published so far."""
        ...

    @property
    def done(self) -> bool:
        """Return whether no more events have to be read."""
        ...

    async def start(self) -> None:
        """Open gaps for the missing events; the collector's gap repair reads them."""
        ...


@dataclass(slots=True)
class _Running:
    backfill: Backfill
    error: MeshError | None = None


class Backfills:
    """The backfills of this process.

    Args:
        source: The collector's name, used in operation names.
    """

    def __init__(self, source: str) -> None:
        self._prefix = f"collectors/{source}/backfills/"
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # One at a time: the gaps of a backfill must be open before the next looks for missing
        # events.
        self._turn = asyncio.Lock()

    def start(self, backfill: Backfill) -> Operation:
        """Start a backfill and return its operation."""
        name = secrets.token_hex(8)
        while len(self._running) >= KEPT:
            del self._running[next(iter(self._running))]
        running = self._running[name] = _Running(backfill)
        task = asyncio.create_task(self._work(running), name=f"backfill {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self._operation(name, running)

    def get(self, name: str) -> Operation:
        """Return the state of a backfill.

        Raises:
            NotFound: This process has no backfill of that name.
        """
        name = name.removeprefix(self._prefix)
        running = self._running.get(name)
        if running is None:
            raise NotFound(
                "BACKFILL_NOT_FOUND",
                f"there is no backfill {name!r}; those of an ended process are forgotten: the gaps "
                "that one has opened are repaired all the same, one that was still looking for "
                "gaps must be started again",
                backfill=name,
            )
        return self._operation(name, running)

    async def _work(self, running: _Running) -> None:
        try:
            async with self._turn:
                await running.backfill.start()
        except MeshError as error:
            _log.warning("a backfill failed: %s", error.message)
            running.error = error
        except Exception:
            _log.exception("a backfill failed")
            running.error = Unavailable("BACKFILL_FAILED", "see the collector's log")

    def _operation(self, name: str, running: _Running) -> Operation:
        backfill, error = running.backfill, running.error
        done = error is not None or backfill.done
        operation = Operation(name=self._prefix + name, done=done)
        operation.metadata.Pack(
            pb.BackfillMetadata(next_id=backfill.next_id, published=backfill.published)
        )
        if error is not None:
            code: int = StatusCode.UNAVAILABLE.value[0]
            operation.error.CopyFrom(Status(code=code, message=error.message))
        elif done:
            operation.response.Pack(pb.BackfillResponse(published=backfill.published))
        return operation
