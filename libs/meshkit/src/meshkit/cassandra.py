"""Connections to Cassandra, which knows us by the client certificate alone."""

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
    """Has nothing to say: the certificate's SPIFFE id has said it all."""

    def initial_response(self) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing."""
        return b""

    def evaluate_challenge(self, challenge: object) -> bytes:
        """Nothing."""
        del challenge
        return b""


class CertificateAuthProvider(AuthProvider):
    """For Cassandra's mutual TLS authenticators."""

    def new_authenticator(self, host: object) -> CertificateAuthenticator:
        """One for a connection."""
        del host
        return CertificateAuthenticator()


def create_cluster(
    settings: CassandraSettings, request_seconds: float, connect_seconds: int, **options: Any
) -> Cluster:
    """A cluster that isn't connected yet: token-aware, LOCAL_QUORUM, rows as tuples.

    Args:
        settings: Where it is.
        request_seconds: How long a request may take.
        connect_seconds: How long a connection may take.
        options: Others of the driver's `Cluster`.
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
        # The driver routes by token only with the keyspace's replication loaded.
        schema_metadata_enabled=True,
        token_metadata_enabled=True,
        **options,
    )
