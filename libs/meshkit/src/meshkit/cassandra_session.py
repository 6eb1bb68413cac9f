"""Cassandra for asyncio: one session, prepared statements, explicit timeouts.

The driver's callbacks run on its own thread and are forwarded to the event loop. The package
`cassandra-driver` is a dependency of the services that use this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from cassandra import DriverException, InvalidRequest
from cassandra.cluster import Cluster, NoHostAvailable, ResponseFuture, Session
from cassandra.connection import ConnectionException
from cassandra.policies import ConstantReconnectionPolicy
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from meshkit.backoff import Backoff
from meshkit.cassandra import create_cluster
from meshkit.errors import Unavailable
from meshkit.metrics import Metrics
from meshkit.resources import Resource
from meshkit.rotation import CHECK_SECONDS, Renewals
from meshkit.settings import CassandraSettings, SettingsError
from meshkit.tls import certificate_files
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)
_Row = tuple[Any, ...]
REQUEST_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 5
RECONNECT_SECONDS: Final = 1.0
RETRY_AFTER_SECONDS: Final = 2.0
REPORT_SECONDS: Final = 5.0
_FOR_EVER: Final = cast(int, None)  # unlimited retries in the driver; its type hint omits None
PAGE_ROWS: Final = 5000
OLD_SECONDS: Final = 30.0
MAX_REQUESTS: Final = 64
"""Maximum number of concurrent requests. The driver can't cancel one: a request whose caller was
cancelled keeps its slot until it is answered or times out."""
MAX_WAITING: Final = 1024
"""Maximum number of requests that wait for a slot; more are rejected at once."""
_DOWN: Final = (NoHostAvailable, DriverException, ConnectionException, OSError)


@dataclass(frozen=True, slots=True)
class _Link:
    """Connections opened with one certificate."""

    cluster: Cluster
    session: Session
    prepared: Mapping[str, PreparedStatement]


class CassandraSession(Resource):
    """A connection to the cluster that is opened in the background and reconnects automatically.

    After a certificate renewal new connections are opened, and the old ones are closed.

    Args:
        settings: Cassandra's addresses.
        statements: The statements to prepare, by name; all must be idempotent.
        tracing: Creates a span for each request inside a trace.
    """

    def __init__(
        self,
        settings: CassandraSettings,
        statements: Mapping[str, str],
        tracing: Tracing,
    ) -> None:
        self._settings, self._texts, self._tracing = settings, dict(statements), tracing
        self._link: _Link | None = None
        files = certificate_files(settings)
        self._renewals = Renewals(files.version if files else None)
        self._closing: set[asyncio.Task[None]] = set()
        self._failures = self._connects = 0
        self._places = asyncio.Semaphore(MAX_REQUESTS)
        self._waiting = 0
        self._reported_at = -REPORT_SECONDS
        self.requests = 0
        self.connected = asyncio.Event()

    def register(self, metrics: Metrics) -> None:
        """Add the counts of requests and connections to the process's metrics."""
        metrics.read_counter(
            "cassandra_failures",
            "Requests that Cassandra failed",
            (),
            lambda: {(): self._failures},
        )
        metrics.read_counter(
            "cassandra_connects",
            "Attempts to connect to Cassandra",
            (),
            lambda: {(): self._connects},
        )
        metrics.read_gauge(
            "cassandra_requests",
            "Requests that Cassandra has not answered yet",
            (),
            lambda: {(): self.requests},
        )

    async def run(self) -> None:
        """Connect, then follow the certificate's renewals."""
        await self.connect()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.renew_if_due()

    async def connect(self) -> None:
        """Connect and prepare the statements, retrying without limit."""
        backoff = Backoff(base=0.5, cap=5.0)
        while not self.connected.is_set():
            self._connects += 1
            try:
                self._link = await asyncio.to_thread(self._connect)
                self.connected.set()
            except (*_DOWN, InvalidRequest) as error:
                _log.warning(
                    "Cassandra at %s isn't ready (%s); retrying",
                    self._settings.cassandra_contact_points,
                    _first_line(error),
                )
                await backoff.wait()
        _log.info("connected to Cassandra at %s", self._settings.cassandra_contact_points)

    async def renew_if_due(self) -> bool:
        """Replace the connections after a certificate renewal; return whether that was done.

        If new connections can't be opened, the old ones are kept and the next check retries.
        """
        version = self._renewals.pending()
        if version is None:
            return False
        try:
            fresh = await asyncio.to_thread(self._connect)
        except (*_DOWN, InvalidRequest, SettingsError) as error:
            _log.warning("can't connect with the renewed certificate: %s", _first_line(error))
            return False
        if not self.connected.is_set():  # closed meanwhile
            await asyncio.to_thread(fresh.cluster.shutdown)
            return False
        old, self._link = self._link, fresh
        self._renewals.taken(version)
        if old is not None:
            task = asyncio.create_task(self._close_later(old), name="old Cassandra connections")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return True

    async def fetch(self, statement: str, *arguments: object) -> list[_Row]:
        """Return the rows of a prepared statement.

        Raises:
            Unavailable: CASSANDRA_UNAVAILABLE: it is down, too slow or overloaded.
        """
        return await self._request(
            f"read {statement}", lambda link: (link.prepared[statement], arguments)
        )

    async def write(self, statement: str, rows: Sequence[Sequence[bytes]]) -> None:
        """Execute an idempotent prepared statement for each row, in one request.

        Args:
            statement: The statement's name.
            rows: Each row's serialized values (`coinmesh_contracts.cql`), all of one partition.

        Raises:
            Unavailable: As `fetch`; some rows may have been written.
        """

        def batch(link: _Link) -> tuple[BatchStatement, None]:
            statements = BatchStatement(BatchType.UNLOGGED)
            for row in rows:
                bound = BoundStatement(link.prepared[statement])
                bound.values = list(row)
                statements.add(bound)
            return statements, None

        await self._request(f"write {statement}", batch)

    async def _request(
        self, operation: str, make: Callable[[_Link], tuple[Any, Sequence[object] | None]]
    ) -> list[_Row]:
        await self._take_place()
        # From here on the driver's last callback releases the slot.
        link = self._link
        if link is None or not self.connected.is_set():
            self._give_place()
            raise cassandra_unavailable()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[_Row]] = loop.create_future()
        rows: list[_Row] = []

        def settle(error: BaseException | None) -> None:
            self._give_place()
            if done.done():
                return
            if error is None:
                done.set_result(rows)
            else:
                done.set_exception(error)

        try:
            response: ResponseFuture = link.session.execute_async(*make(link))
        except BaseException as error:
            self._give_place()
            if not isinstance(error, _DOWN):
                raise
            self._failures += 1
            raise cassandra_unavailable() from error

        def page(page_rows: Sequence[_Row] | None) -> None:
            rows.extend(page_rows or ())
            if response.has_more_pages and not done.cancelled():
                response.start_fetching_next_page()
            else:
                loop.call_soon_threadsafe(settle, None)

        def failed(error: BaseException) -> None:
            loop.call_soon_threadsafe(settle, error)

        response.add_callbacks(page, failed)
        try:
            with self._tracing.asking("cassandra", operation):
                return await done
        except _DOWN as error:
            self._failures += 1
            self._report(operation, error)
            raise cassandra_unavailable() from error

    def _report(self, operation: str, error: BaseException) -> None:
        """Log a failure, at most once every `REPORT_SECONDS`."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            _log.warning("Cassandra failed to %s: %s", operation, _first_line(error))

    async def _take_place(self) -> None:
        if not self.connected.is_set() or self._waiting >= MAX_WAITING:
            raise cassandra_unavailable()
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        self.requests += 1

    def _give_place(self) -> None:
        self.requests -= 1
        self._places.release()

    async def close(self) -> None:
        """Close the connections."""
        self.connected.clear()
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            await asyncio.to_thread(link.cluster.shutdown)

    async def _close_later(self, link: _Link) -> None:
        """Close old connections after a delay, so that requests in progress can finish."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(OLD_SECONDS)
        await asyncio.to_thread(link.cluster.shutdown)

    def _connect(self) -> _Link:
        cluster = create_cluster(
            self._settings,
            REQUEST_SECONDS,
            CONNECT_SECONDS,
            reconnection_policy=ConstantReconnectionPolicy(RECONNECT_SECONDS, _FOR_EVER),
            idle_heartbeat_interval=5,
            idle_heartbeat_timeout=5,
        )
        try:
            session = cluster.connect(self._settings.cassandra_keyspace)
            session.default_fetch_size = PAGE_ROWS
            prepared = {name: session.prepare(text) for name, text in self._texts.items()}
            for statement in prepared.values():
                statement.is_idempotent = True
        except BaseException:
            cluster.shutdown()
            raise
        return _Link(cluster, session, prepared)


def cassandra_unavailable() -> Unavailable:
    """Return the error of a failed request: Cassandra is down, too slow or overloaded."""
    return Unavailable(
        "CASSANDRA_UNAVAILABLE",
        "the database of history doesn't answer now, live data can be read; try again in a few "
        "seconds",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
