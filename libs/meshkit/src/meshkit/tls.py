"""Central place for binding listeners and securing client connections.

`tls_dir/current/` contains tls.key, tls.crt and ca.crt; `current` is a symbolic link that a renewal
replaces by a rename, so a reader never sees half a pair. Without `tls_dir` everything is plaintext,
and only on the loopback interface unless `insecure` is set.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, cast

import grpc
import grpc.aio
from cryptography import x509

from meshkit.rotation import RotatingChannel
from meshkit.settings import PREFIX, Address, MeshSettings, SettingsError

_log = logging.getLogger(__name__)

SERVICE_PREFIX = "spiffe://coinmesh/svc/"
CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 16 << 20),
    # Reconnect soon to a server that was down: the default delay grows to two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One consistent reading of the three files."""

    key: bytes
    chain: bytes
    roots: bytes

    @property
    def not_after(self) -> datetime:
        """Return when the certificate expires, UTC."""
        return x509.load_pem_x509_certificate(self.chain).not_valid_after_utc

    @property
    def connection_seconds(self) -> float:
        """Return the maximum lifetime of a connection so that it closes before its certificate
        expires.

        It is a quarter of the certificate's lifetime, of which a third remains at its renewal.
        """
        certificate = x509.load_pem_x509_certificate(self.chain)
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return life.total_seconds() / 4


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The files below a `tls_dir`."""

    tls_dir: Path

    @property
    def key(self) -> Path:
        """Return the path of the private key."""
        return self.tls_dir / "current" / "tls.key"

    @property
    def chain(self) -> Path:
        """Return the path of the certificate and its intermediates."""
        return self.tls_dir / "current" / "tls.crt"

    @property
    def roots(self) -> Path:
        """Return the path of the CA certificates trusted for peers."""
        return self.tls_dir / "current" / "ca.crt"

    def version(self) -> object:
        """Return a value that differs after each renewal; OSError if the files are missing."""
        directory = (self.tls_dir / "current").resolve(strict=True)
        return directory, (directory / "tls.crt").stat().st_mtime_ns

    def read(self) -> KeyPair:
        """Read all three from one directory, even if the link is swapped meanwhile."""
        try:
            directory = (self.tls_dir / "current").resolve(strict=True)
            return KeyPair(
                (directory / "tls.key").read_bytes(),
                (directory / "tls.crt").read_bytes(),
                (directory / "ca.crt").read_bytes(),
            )
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}TLS_DIR: can't read {error.filename}: {error.strerror}; the directory "
                "must hold current/tls.key, current/tls.crt and current/ca.crt"
            ) from error


class RenewingContext(ssl.SSLContext):
    """A client or server context whose every handshake uses the current certificate files.

    Open connections keep the certificate of their handshake.
    """

    def __new__(cls, files: CertificateFiles, side: int) -> RenewingContext:
        """Create a context that requires a certificate of the mesh from peers.

        `side` is ssl.PROTOCOL_TLS_CLIENT or ssl.PROTOCOL_TLS_SERVER.
        """
        del files
        return super().__new__(cls, side)

    def __init__(self, files: CertificateFiles, side: int) -> None:
        del side
        self._files = files
        self._seen: object = None
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.verify_mode = ssl.CERT_REQUIRED
        files.read()
        self.renew()

    def renew(self) -> None:
        """Read the files if they have changed."""
        seen = self._files.version()
        if seen != self._seen:
            self.load_cert_chain(self._files.chain, self._files.key)
            self.load_verify_locations(self._files.roots)
            self._seen = seen

    def renewed(self) -> Self:
        """Return this context with current files; for libraries that bypass its handshake."""
        try:
            self.renew()
        except (OSError, SettingsError):
            _log.exception("can't read the renewed certificate; the old one stays in use")
        return self

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wrap a socket with the current certificate files."""
        self.renewed()
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Wrap memory buffers with the current certificate files."""
        self.renewed()
        return super().wrap_bio(*args, **kwargs)


def peer_service(certificate: Any) -> str | None:
    """Return the service named in a certificate from `getpeercert()`; None for any other."""
    names = (certificate or {}).get("subjectAltName", ())
    found = [name for kind, name in names if kind == "URI"]
    if len(found) != 1 or not found[0].startswith(SERVICE_PREFIX):
        return None
    return found[0].removeprefix(SERVICE_PREFIX)


def certificate_files(settings: MeshSettings) -> CertificateFiles | None:
    """Return the files of this process's certificate; None if TLS is off."""
    return None if settings.tls_dir is None else CertificateFiles(settings.tls_dir)


def server_credentials(settings: MeshSettings) -> grpc.ServerCredentials | None:
    """Return credentials that require a client certificate and follow renewals.

    None if TLS is off.
    """
    files = certificate_files(settings)
    if files is None:
        return None
    current = files.version()
    pair = files.read()

    def configuration(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(pair.key, pair.chain)], root_certificates=pair.roots
        )

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Called for every new connection: it must be cheap and must never raise.
        nonlocal current
        try:
            version = files.version()
            if version == current:
                return None
            renewed = files.read()
            current = version
            _log.info("server certificate renewed", extra={"not_after": str(renewed.not_after)})
            return configuration(renewed)
        except Exception:
            _log.exception("can't read the renewed certificate; the old one stays in use")
            return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(pair),
        # The stub lacks None for "unchanged", which grpc's docs allow.
        cast(Callable[[], grpc.ServerCertificateConfiguration], fetch),
        require_client_authentication=True,
    )


def bind(server: grpc.aio.Server, address: str, settings: MeshSettings) -> Address:
    """Bind `server` to `address`; return the address with the assigned port."""
    host, port = Address.parse(address)
    credentials = server_credentials(settings)
    try:
        if credentials is None:
            require_plaintext_allowed(host, settings, "listen on")
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise SettingsError(
            f"{PREFIX}GRPC_LISTEN: can't listen on {address} (is the port taken?); "
            "free it or set another address"
        ) from error
    return Address(host, port)


def channel(
    target: str, settings: MeshSettings, options: Sequence[tuple[str, int | str]] = ()
) -> grpc.aio.Channel:
    """Return a channel to `target`; under TLS one that follows certificate renewals.

    A call that is running during a renewal ends normally; a stream that outlives the old
    connection's grace ends with UNAVAILABLE or CANCELLED and must be reopened by the client.
    """
    # Later options override earlier ones, and gRPC requires each option only once.
    merged = list(dict([*CHANNEL_OPTIONS, *options]).items())
    files = certificate_files(settings)
    if files is None:
        if not target.startswith("unix:"):
            host = target.rpartition("/")[2].rpartition(":")[0]
            require_plaintext_allowed(host, settings, "connect to")
        return grpc.aio.insecure_channel(target, merged)

    def connect() -> grpc.aio.Channel:
        pair = files.read()
        credentials = grpc.ssl_channel_credentials(pair.roots, pair.key, pair.chain)
        return grpc.aio.secure_channel(target, credentials, merged)

    return RotatingChannel(connect, files.version)


def client_ssl_context(settings: MeshSettings) -> RenewingContext | None:
    """Return the context for clients other than gRPC (HTTP, Redis, Cassandra); None without TLS."""
    files = certificate_files(settings)
    if files is None:
        return None
    return RenewingContext(files, ssl.PROTOCOL_TLS_CLIENT)


def trusting_ssl_context(ca: Path | str, files: CertificateFiles | None = None) -> ssl.SSLContext:
    """Return a context for a client of one server: trusts `ca` only, presents `files` if given.

    For listeners with a separate CA, such as Vault's or the public one. It doesn't follow renewals:
    create it for each use, or see `FollowingContext`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    if files is not None:
        context.load_cert_chain(files.chain, files.key)
    return context


class FollowingContext(ssl.SSLContext):
    """A `trusting_ssl_context` that reads the CA file again at each handshake."""

    def __new__(cls, ca: Path) -> FollowingContext:
        """Create a context; `ca` is a PEM file of CA certificates."""
        del ca
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, ca: Path) -> None:
        self._ca = ca
        self._protocols: list[str] = []
        self._current = trusting_ssl_context(ca)

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Set the ALPN protocols of all later contexts."""
        self._protocols = list(alpn_protocols)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wrap a socket with the current CA file."""
        return self._latest().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Wrap memory buffers with the current CA file."""
        return self._latest().wrap_bio(*args, **kwargs)

    def _latest(self) -> ssl.SSLContext:
        # Always a new one: CAs can be added to a context, but not removed from it.
        try:
            self._current = trusting_ssl_context(self._ca)
        except (OSError, ValueError):
            _log.exception("can't read the CAs in %s; those before stay in use", self._ca)
        if self._protocols:
            self._current.set_alpn_protocols(self._protocols)
        return self._current


def server_ssl_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return the context for listeners other than gRPC; clients need a mesh certificate."""
    return RenewingContext(files, ssl.PROTOCOL_TLS_SERVER)


def public_server_context(chain: Path, key: Path | None = None) -> ssl.SSLContext:
    """Return the context for a listener whose clients need no certificate.

    For stand-ins of servers outside the mesh; it doesn't follow renewals. Without `key`, the chain
    file must contain the key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(chain, key)
    return context


def kafka_client_config(settings: MeshSettings) -> dict[str, str | int | float | bool]:
    """Return librdkafka's security settings; empty if TLS is off."""
    files = certificate_files(settings)
    if files is None:
        return {}
    return {
        "security.protocol": "ssl",
        "ssl.ca.location": str(files.roots),
        "ssl.certificate.location": str(files.chain),
        "ssl.key.location": str(files.key),
    }


def is_loopback(host: str) -> bool:
    """Return whether `host` is the loopback interface, judged by its name alone."""
    name = host.removeprefix("[").removesuffix("]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def require_plaintext_allowed(host: str, settings: MeshSettings, verb: str) -> None:
    """Raise SettingsError unless plaintext to or on `host` is allowed."""
    if settings.insecure or is_loopback(host):
        return
    raise SettingsError(
        f"refusing to {verb} {host} in plaintext: set {PREFIX}TLS_DIR, "
        f"or {PREFIX}INSECURE=1 where the network is trusted"
    )
