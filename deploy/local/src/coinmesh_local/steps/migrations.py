"""Apply Cassandra migrations: numbered .cql files, each once, in order, recorded by checksum.

A failed statement stops the run. A file is recorded only after its last statement and otherwise run
again from its start, so statements must be repeatable (IF NOT EXISTS).
"""

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cassandra import DriverException
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import RoundRobinPolicy
from cassandra.protocol import ErrorMessage

from coinmesh_local.steps.errors import StepError
from meshkit.cassandra import CertificateAuthProvider
from meshkit.settings import CassandraSettings
from meshkit.tls import client_ssl_context

NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.cql")
TIMEOUT = 60
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Migration:
    """One migration file."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def load(directory: Path) -> list[Migration]:
    """Return the migrations of a folder by number; StepError for a bad name or numbering."""
    found: list[Migration] = []
    for path in sorted(directory.glob("*.cql")):
        match = NAME.fullmatch(path.name)
        if match is None:
            raise StepError(f"{path}: a migration is named NNNN_what_it_does.cql")
        found.append(Migration(int(match[1]), path.name, path.read_text()))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise StepError(f"{directory}: numbers must run from 0001 without gaps, are {numbers}")
    return found


def statements(text: str) -> list[str]:
    """Return the CQL statements of a file, without comments, split at semicolons."""
    token = re.compile(r"'(?:[^']|'')*'|--[^\n]*|//[^\n]*|/\*.*?\*/|;|[^'/;-]+|.", re.DOTALL)
    result, current = [], ""
    for piece in token.findall(text):
        if piece == ";":
            result.append(current.strip())
            current = ""
        elif not piece.startswith(("--", "//", "/*")):
            current += piece
    return [statement for statement in (*result, current.strip()) if statement]


def apply(settings: CassandraSettings, directory: Path) -> list[str]:
    """Migrate the keyspace to the newest schema and return the names of the applied files.

    Raises:
        StepError: A file that was applied before has changed since or is gone.
    """
    wanted = load(directory)
    addresses = settings.cassandra_addresses
    tls = client_ssl_context(settings)
    profile = ExecutionProfile(load_balancing_policy=RoundRobinPolicy(), request_timeout=TIMEOUT)
    cluster = Cluster(
        [address.host for address in addresses],
        port=addresses[0].port,
        protocol_version=5,
        ssl_context=tls,
        auth_provider=CertificateAuthProvider() if tls else None,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=TIMEOUT,
        control_connection_timeout=TIMEOUT,  # the default of 2 s is too short at start
    )
    try:
        session = cluster.connect()
        return _apply(session, settings.cassandra_keyspace, wanted)
    except NoHostAvailable as error:
        where = settings.cassandra_contact_points
        raise StepError(f"Cassandra at {where} cannot be reached: {error}") from error
    finally:
        cluster.shutdown()


def _apply(session: Any, keyspace: str, wanted: list[Migration]) -> list[str]:
    session.execute(
        f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
        "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    session.set_keyspace(keyspace)
    session.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(number int PRIMARY KEY, name text, checksum text, applied_at timestamp)"
    )
    rows = session.execute("SELECT number, name, checksum FROM schema_migrations")
    recorded = {row.number: row for row in rows}
    known = {migration.number for migration in wanted}
    for number in sorted(set(recorded) - known):
        raise StepError(f"migration {recorded[number].name} was applied but its file is gone")
    applied: list[str] = []
    for migration in wanted:
        row = recorded.get(migration.number)
        if row is not None:
            if (row.name, row.checksum) != (migration.name, migration.checksum):
                raise StepError(
                    f"migration {row.name} was altered or renamed after it had been applied: "
                    "restore it and put the change into a new number (`coinmesh reset` drops all "
                    "data of a local mesh)"
                )
            continue
        for statement in statements(migration.text):
            try:
                session.execute(statement)
            except (DriverException, ErrorMessage) as error:
                raise StepError(
                    f"{migration.name}: Cassandra refused “{statement}”: {error}"
                ) from error
        session.execute(
            "INSERT INTO schema_migrations (number, name, checksum, applied_at) "
            "VALUES (%s, %s, %s, toTimestamp(now()))",
            (migration.number, migration.name, migration.checksum),
        )
        _log.info("applied %s", migration.name)
        applied.append(migration.name)
    return applied
