"""Writes rows to Cassandra: one session per process, prepared, idempotent, with bounded retries."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cassandra import OperationTimedOut
from cassandra.cluster import NoHostAvailable
from cassandra.concurrent import execute_concurrent
from cassandra.policies import ExponentialReconnectionPolicy
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement

from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark.sinks.rows import Row
from meshkit.backoff import Backoff
from meshkit.cassandra import create_cluster
from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.settings import CassandraSettings

_log = logging.getLogger(__name__)

BATCH_ROWS: Final = 30
ATTEMPTS: Final = 5
REQUEST_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10

CONCURRENCY: Final = 64
_TIME: Final = ("bucket", "start_time")


def _insert(table: str, *columns: str) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) USING TIMESTAMP ?"  # noqa: S608


STATEMENTS: Final[Mapping[str, str]] = {
    f"{table}_{interval}": _insert(f"{table}_{interval}", "instrument", *_TIME, column)
    for interval in INTERVALS
    for table, column in (("bars", "bar"), ("indicators", "indicators"))
}
"""Statements by table; a row's values are in this order."""


class CassandraSink:
    """Writes rows; created in the process that uses it, never before a fork."""

    def __init__(self, settings: CassandraSettings) -> None:
        """Connect and prepare.

        Raises:
            Unavailable: No contact point answers.
            FailedPrecondition: The keyspace or a table is missing.
        """
        self._where = settings.cassandra_contact_points
        self._cluster = create_cluster(
            settings,
            REQUEST_SECONDS,
            CONNECT_SECONDS,
            reconnection_policy=ExponentialReconnectionPolicy(0.5, 5.0),
        )
        try:
            self._session = self._cluster.connect(settings.cassandra_keyspace)
            self._prepared: dict[str, PreparedStatement] = {
                table: self._session.prepare(text) for table, text in STATEMENTS.items()
            }
        except (NoHostAvailable, OperationTimedOut) as error:
            self._cluster.shutdown()
            raise Unavailable(
                "CASSANDRA_UNREACHABLE",
                f"Cassandra at {self._where} doesn't answer ({_first(error)}); start it, or "
                "correct COINMESH_CASSANDRA_CONTACT_POINTS",
            ) from error
        except Exception as error:
            self._cluster.shutdown()
            raise FailedPrecondition(
                "CASSANDRA_SCHEMA",
                f"Cassandra at {self._where}: {error}; apply the migrations with: "
                "coinmesh deploy migrations",
            ) from error
        for statement in self._prepared.values():
            statement.is_idempotent = True

    def write(self, rows: Iterable[Row]) -> int:
        """Write all rows and return their number.

        An instrument's rows of one table are in the order in which they may become visible: a
        reader that sees a row finds all rows before it.

        Raises:
            Unavailable: Some could not be written in `ATTEMPTS` attempts.
        """
        count = 0
        rounds: dict[int, list[tuple[Any, None]]] = defaultdict(list)
        for number, size, statement in self._statements(rows):
            count += size
            rounds[number].append((statement, None))
        for number in sorted(rounds):
            self._execute(rounds[number])
        return count

    def close(self) -> None:
        """Close the connections."""
        self._cluster.shutdown()

    def _execute(self, pending: list[tuple[Any, None]]) -> None:
        backoff = Backoff(base=0.2, cap=3.0, limit=ATTEMPTS - 1)
        while pending:
            results = execute_concurrent(
                self._session, pending, concurrency=CONCURRENCY, raise_on_first_error=False
            )
            failed = [
                (statement, result.result_or_exc)
                for statement, result in zip(pending, results, strict=True)
                if not result.success
            ]
            if not failed:
                return
            delay = next(backoff, None)
            if delay is None:
                raise Unavailable(
                    "CASSANDRA_UNAVAILABLE",
                    f"Cassandra at {self._where} did not take {len(failed)} of {len(results)} "
                    f"writes in {ATTEMPTS} attempts: {_first(failed[0][1])}",
                )
            _log.warning("%d writes failed (%s); again", len(failed), _first(failed[0][1]))
            time.sleep(delay)
            pending = [statement for statement, _ in failed]

    def _statements(self, rows: Iterable[Row]) -> Iterator[tuple[int, int, Any]]:
        """Yield single statements and unlogged batches of rows of one partition.

        Each is preceded by its round and its number of rows.
        """
        written: Counter[tuple[str, bytes]] = Counter()
        groups: dict[tuple[str, tuple[bytes, ...]], list[Row]] = defaultdict(list)
        for row in rows:
            groups[row.table, row.partition].append(row)
        for (table, partition), members in groups.items():
            prepared = self._prepared[table]
            for at in range(0, len(members), BATCH_ROWS):
                chunk = members[at : at + BATCH_ROWS]
                number = written[table, partition[0]]
                written[table, partition[0]] += 1
                if len(chunk) == 1:
                    yield number, 1, _bound(prepared, chunk[0])
                    continue
                batch = BatchStatement(BatchType.UNLOGGED)
                batch.is_idempotent = True
                for row in chunk:
                    batch.add(_bound(prepared, row))
                yield number, len(chunk), batch


def _bound(prepared: PreparedStatement, row: Row) -> BoundStatement:
    """Return a bound statement of values that are already serialized."""
    bound = BoundStatement(prepared)
    bound.values = [*row.partition, *row.values, row.timestamp.to_bytes(8, "big", signed=True)]
    return bound


def _first(error: object) -> str:
    """Return one line about an error; NoHostAvailable hides it in a mapping."""
    errors = getattr(error, "errors", None)
    if isinstance(errors, Mapping) and errors:
        error = next(iter(errors.values()))
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
