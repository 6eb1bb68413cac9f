"""A Cassandra session that says who it is by its client certificate alone."""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassandra import DriverException
from cassandra.auth import Authenticator, AuthProvider, PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable

from coinmesh_access.table import AccessError


class CertificateAuthenticator(Authenticator):
    """Has nothing to say: the certificate's SPIFFE id has said it all."""

    def initial_response(self) -> bytes:
        return b""

    def evaluate_challenge(self, challenge: Any) -> bytes:
        return b""


class CertificateAuthProvider(AuthProvider):
    """For Cassandra's mutual TLS authenticators."""

    def new_authenticator(self, host: Any) -> CertificateAuthenticator:
        return CertificateAuthenticator()


@contextmanager
def connect(
    contact_points: str, tls_dir: Path, password: tuple[str, str] | None = None
) -> Generator[Any]:
    """A session on `host:port[,host:port…]`; AccessError when none answers or lets it in.

    `password` (user, password) is for a new node, where no certificate has a role yet.
    """
    current = tls_dir / "current"
    context = ssl.create_default_context(cafile=str(current / "ca.crt"))
    context.load_cert_chain(current / "tls.crt", current / "tls.key")
    addresses = [address.rpartition(":") for address in contact_points.split(",")]
    cluster = Cluster(
        [host for host, _, _ in addresses],
        port=int(addresses[0][2]),
        ssl_context=context,
        auth_provider=PlainTextAuthProvider(*password) if password else CertificateAuthProvider(),
        protocol_version=5,
        connect_timeout=10,
    )
    try:
        yield cluster.connect()
    except (NoHostAvailable, DriverException) as error:
        raise AccessError(f"Cassandra at {contact_points}: {error}") from error
    finally:
        cluster.shutdown()
