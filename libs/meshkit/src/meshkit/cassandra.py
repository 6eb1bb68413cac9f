"""Says to Cassandra who we are by the client certificate alone."""

from __future__ import annotations

from cassandra.auth import Authenticator, AuthProvider


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
