"""A Cassandra session authenticated by its client certificate alone."""

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
    """Yield a session on `host:port[,host:port…]`; AccessError when the connection fails.

    `password` (user, password) is for a new node that has no certificate identities yet (see
    `adopt`).
    """
    addresses = [address.rpartition(":") for address in contact_points.split(",")]
    cluster = Cluster(
        [host for host, _, _ in addresses],
        port=int(addresses[0][2]),
        ssl_context=client_ssl_context(MeshSettings(tls_dir=tls_dir)),
        auth_provider=PlainTextAuthProvider(*password) if password else CertificateAuthProvider(),
        protocol_version=5,
        connect_timeout=TIMEOUT,
        control_connection_timeout=TIMEOUT,  # the default of 2 s is too short at start
    )
    try:
        yield cluster.connect()
    except (NoHostAvailable, DriverException, RequestExecutionException) as error:
        raise AccessError(f"Cassandra at {contact_points}: {error}") from error
    finally:
        cluster.shutdown()


#: The default user of a new node.
FIRST_LOGIN = ("cassandra", "cassandra")


def adopt(contact_points: str, tls_dir: Path, table: AccessTable, service: str) -> None:
    """Register the certificate of `service`, a superuser of the table, in a new node.

    The node must run with `PasswordAuthenticator` for this: Cassandra's mutual TLS authenticators
    ignore passwords when there is a certificate, and clients without one are rejected before.
    Afterwards the node is started with `MutualTlsAuthenticator`, which makes the default user
    useless.

    Args:
        contact_points: `host:port`, comma separated.
        tls_dir: The service's certificate.
        table: The access table.
        service: The identity that will administer roles and schema.
    """
    only = table.model_copy(update={"services": {service: table.service(service)}})
    with connect(contact_points, tls_dir, FIRST_LOGIN) as session:
        for statement in cassandra_roles.statements(only):
            session.execute(statement)
