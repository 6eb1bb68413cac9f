"""Connections to Cassandra, authenticated by client certificate alone."""

from __future__ import annotations

from typing import Any

from cassandra import ConsistencyLevel
from cassandra.auth import Authenticator, AuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import tuple_factory

from meshkit.settings import CassandraSettings
from meshkit.tls import client_ssl_context


class CertificateAuthenticator(Authenticator):
    """Sends no credentials: the certificate's SPIFFE id identifies the client."""

    def initial_response(self) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return an empty response."""
        return b""

    def evaluate_challenge(self, challenge: object) -> bytes:
        """Return an empty response."""
        del challenge
        return b""


class CertificateAuthProvider(AuthProvider):
    """Authentication for Cassandra's mutual TLS authenticators."""

    def new_authenticator(self, host: object) -> CertificateAuthenticator:
        """Return an authenticator for a connection."""
        del host
        return CertificateAuthenticator()


def create_cluster(
    settings: CassandraSettings, request_seconds: float, connect_seconds: int, **options: Any
) -> Cluster:
    """Return a cluster that isn't connected yet: token-aware, LOCAL_QUORUM, rows as tuples.

    Args:
        settings: Cassandra's addresses.
        request_seconds: Timeout of a request.
        connect_seconds: Timeout of a connection attempt.
        options: Further options of the driver's `Cluster`.
    """
    addresses = settings.cassandra_addresses
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=request_seconds,
        row_factory=tuple_factory,
    )
    tls = client_ssl_context(settings)
    return Cluster(
        contact_points=[(address.host, address.port) for address in addresses],
        port=addresses[0].port,
        protocol_version=5,
        ssl_context=tls,
        auth_provider=CertificateAuthProvider() if tls else None,
        connect_timeout=connect_seconds,
        control_connection_timeout=connect_seconds,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        # The driver routes by token only if the keyspace's replication is loaded.
        schema_metadata_enabled=True,
        token_metadata_enabled=True,
        **options,
    )
