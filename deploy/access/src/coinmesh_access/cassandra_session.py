"""A Cassandra session that says who it is by its client certificate alone."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassandra import DriverException, RequestExecutionException
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable

from coinmesh_access import cassandra_roles
from coinmesh_access.table import AccessError, AccessTable
from meshkit.cassandra import CertificateAuthProvider
from meshkit.settings import MeshSettings
from meshkit.tls import client_ssl_context

TIMEOUT = 20


@contextmanager
def connect(
    contact_points: str, tls_dir: Path, password: tuple[str, str] | None = None
) -> Generator[Any]:
    """A session on `host:port[,host:port…]`; AccessError when none answers or lets it in.

    `password` (user, password) is for a new node that knows no certificate yet (see `adopt`).
    """
    addresses = [address.rpartition(":") for address in contact_points.split(",")]
    cluster = Cluster(
        [host for host, _, _ in addresses],
        port=int(addresses[0][2]),
        ssl_context=client_ssl_context(MeshSettings(tls_dir=tls_dir)),
        auth_provider=PlainTextAuthProvider(*password) if password else CertificateAuthProvider(),
        protocol_version=5,
        connect_timeout=TIMEOUT,
        control_connection_timeout=TIMEOUT,  # else 2 s: too few while all starts at once
    )
    try:
        yield cluster.connect()
    except (NoHostAvailable, DriverException, RequestExecutionException) as error:
        raise AccessError(f"Cassandra at {contact_points}: {error}") from error
    finally:
        cluster.shutdown()


#: What a new node comes with.
FIRST_LOGIN = ("cassandra", "cassandra")


def adopt(contact_points: str, tls_dir: Path, table: AccessTable, service: str) -> None:
    """Make a new node know `service`, a superuser of the table, by its certificate.

    The node must run with `PasswordAuthenticator` this once: Cassandra's mutual TLS authenticators
    look at no password when there is a certificate, and clients without one don't get that far.
    Afterwards it is started with `MutualTlsAuthenticator`, and the first login is worth nothing.

    Args:
        contact_points: `host:port`, comma separated.
        tls_dir: The service's certificate.
        table: The access table.
        service: Who will administer roles and schema.
    """
    only = table.model_copy(update={"services": {service: table.service(service)}})
    with connect(contact_points, tls_dir, FIRST_LOGIN) as session:
        for statement in cassandra_roles.statements(only):
            session.execute(statement)
