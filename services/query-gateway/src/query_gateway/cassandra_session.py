"""Cassandra for asyncio: one session, prepared statements, explicit timeouts.

The driver's callbacks come on its own thread and are handed to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from cassandra import ConsistencyLevel, DriverException, InvalidRequest
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    ResponseFuture,
    Session,
)
from cassandra.connection import ConnectionException
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
)
from cassandra.query import PreparedStatement, tuple_factory

from meshkit.backoff import Backoff
from meshkit.cassandra import CertificateAuthProvider
from meshkit.errors import Unavailable
from meshkit.metrics import Metrics
from meshkit.settings import CassandraSettings
from meshkit.tls import client_ssl_context
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)
_Row = tuple[Any, ...]
REQUEST_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 5
RECONNECT_SECONDS: Final = 1.0
RETRY_AFTER_SECONDS: Final = 2.0
_FOR_EVER: Final = cast(int, None)  # the driver's word for it; its type hint forgets it
PAGE_ROWS: Final = 5000
_DOWN: Final = (NoHostAvailable, DriverException, ConnectionException, OSError)


class CassandraSession:
    """A connection to the cluster that is made in the background and mends itself.

    Args:
        settings: Where Cassandra is.
        statements: The statements to prepare, by name.
        metrics: Where reconnects and failures are counted.
        tracing: For a span of each read inside a trace.
    """

    def __init__(
        self,
        settings: CassandraSettings,
        statements: Mapping[str, str],
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._settings, self._texts, self._tracing = settings, dict(statements), tracing
        self._session: Session | None = None
        self._cluster: Cluster | None = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._failures = metrics.counter("cassandra_failures", "Requests that Cassandra failed")
        self._retries = metrics.counter("cassandra_connects", "Attempts to connect to Cassandra")
        self.connected = asyncio.Event()

    async def connect(self) -> None:
        """Connects and prepares, trying again for ever; returns when that is done."""
        backoff = Backoff(base=0.5, cap=5.0)
        while not self.connected.is_set():
            self._retries.inc()
            try:
                await asyncio.to_thread(self._connect)
                self.connected.set()
            except (*_DOWN, InvalidRequest) as error:
                _log.warning(
                    "Cassandra at %s isn't ready (%s); retrying",
                    self._settings.cassandra_contact_points,
                    _first_line(error),
                )
                await asyncio.to_thread(self._shutdown)
                await backoff.wait()
        _log.info("connected to Cassandra at %s", self._settings.cassandra_contact_points)

    async def fetch(self, statement: str, *arguments: object) -> list[_Row]:
        """The rows of a prepared statement.

        Raises:
            Unavailable: CASSANDRA_UNAVAILABLE: it is down or too slow.
        """
        if self._session is None or not self.connected.is_set():
            raise _unavailable()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[_Row]] = loop.create_future()
        rows: list[_Row] = []

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(rows)
            else:
                done.set_exception(error)

        try:
            response: ResponseFuture = self._session.execute_async(
                self._prepared[statement], arguments
            )
        except _DOWN as error:
            self._failures.inc()
            raise _unavailable() from error

        def page(found: Sequence[_Row] | None) -> None:
            rows.extend(found or ())
            if response.has_more_pages:
                response.start_fetching_next_page()
            else:
                loop.call_soon_threadsafe(settle, None)

        def failed(error: BaseException) -> None:
            loop.call_soon_threadsafe(settle, error)

        response.add_callbacks(page, failed)
        try:
            with self._tracing.asking("cassandra", f"read {statement}"):
                return await done
        except _DOWN as error:
            self._failures.inc()
            _log.warning("a read from Cassandra failed: %s", _first_line(error))
            raise _unavailable() from error

    async def close(self) -> None:
        """Closes the connections."""
        self.connected.clear()
        await asyncio.to_thread(self._shutdown)

    def _connect(self) -> None:
        addresses = self._settings.cassandra_addresses
        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=REQUEST_SECONDS,
            row_factory=tuple_factory,
        )
        tls = client_ssl_context(self._settings)
        self._cluster = Cluster(
            contact_points=[(address.host, address.port) for address in addresses],
            port=addresses[0].port,
            protocol_version=5,
            ssl_context=tls,
            auth_provider=CertificateAuthProvider() if tls else None,
            connect_timeout=CONNECT_SECONDS,
            control_connection_timeout=CONNECT_SECONDS,
            reconnection_policy=ConstantReconnectionPolicy(RECONNECT_SECONDS, _FOR_EVER),
            idle_heartbeat_interval=5,
            idle_heartbeat_timeout=5,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        )
        self._session = self._cluster.connect(self._settings.cassandra_keyspace)
        self._session.default_fetch_size = PAGE_ROWS
        self._prepared = {name: self._session.prepare(text) for name, text in self._texts.items()}

    def _shutdown(self) -> None:
        self._session = None
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None


def _unavailable() -> Unavailable:
    return Unavailable(
        "CASSANDRA_UNAVAILABLE",
        "history can't be read now, because the database doesn't answer; live data can. Try again "
        "in a few seconds",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
