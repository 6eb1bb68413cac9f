"""Certificates and a service for tests of mutual TLS."""

import asyncio
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc
from coinmesh_contracts.market.v1.instrument_pb2 import Instrument
from meshkit import authz
from meshkit.authz import ROLES_HEADER, USER_HEADER, user
from meshkit.peer import caller
from meshkit.settings import (
    MeshSettings,
    ServiceSettings,
)
from meshkit.tls import (
    client_ssl_context,
)

PEM = serialization.Encoding.PEM


class Authority:
    """A certificate authority that writes `tls_dir`s as the mesh expects them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = (
            self._builder(name, self.key.public_key())
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, service: str, directory: str | None = None, domain: str = "coinmesh") -> Path:
        """A new certificate for `spiffe://<domain>/svc/<service>`, published by one rename."""
        tls_dir = self.root / (directory or service)
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.UniformResourceIdentifier(f"spiffe://{domain}/svc/{service}"),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        certificate = (
            self._builder(subject, key.public_key())
            .issuer_name(self.certificate.subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        version = tls_dir / f"v{certificate.serial_number}"
        version.mkdir(parents=True)
        (version / "tls.crt").write_bytes(certificate.public_bytes(PEM))
        (version / "ca.crt").write_bytes(self.certificate.public_bytes(PEM))
        private = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (version / "tls.key").write_bytes(private)
        link = tls_dir / "next"
        link.symlink_to(version.name)
        link.rename(tls_dir / "current")
        return tls_dir

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
        )


def client(tls_dir: Path | None) -> MeshSettings:
    return MeshSettings(tls_dir=tls_dir)


def server(tls_dir: Path, **values: Any) -> ServiceSettings:
    return ServiceSettings(tls_dir=tls_dir, drain_grace_seconds=0.1, **values)


class Market(market_grpc.MarketServiceServicer):
    """Answers with the caller's name, and the user's as the venue."""

    async def GetInstrument(self, request: Any, context: Any) -> Instrument:
        found = user(context)
        return Instrument(name=caller(context) or "nobody", venue=found.name if found else "")


MARKET = [(market_grpc.add_MarketServiceServicer_to_server, Market())]
REQUEST = market.GetInstrumentRequest()


def stated(*roles: str, name: str = "ann") -> tuple[tuple[str, str], ...]:
    """What Envoy states of a user."""
    return authz.stated(authz.User(name, roles, "free"))


VIEWER = stated("viewer")
TWICE = (*VIEWER, (ROLES_HEADER, stated("admin")[1][1]))
GARBLED = ((USER_HEADER, "ann"), (ROLES_HEADER, "%%%"))


def stub(to_it: grpc.aio.Channel) -> Any:
    return market_grpc.MarketServiceStub(to_it)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def target(started: Any) -> str:
    return f"localhost:{started.running.grpc.port}"


def serial(tls_dir: Path) -> int:
    text = (tls_dir / "current" / "tls.crt").read_bytes()
    return x509.load_pem_x509_certificate(text).serial_number


async def served(port: int, settings: MeshSettings) -> x509.Certificate:
    """The certificate that a new connection is shown."""
    context = client_ssl_context(settings)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown)


def fetch(url: str, context: ssl.SSLContext) -> str:
    with urllib.request.urlopen(url, context=context, timeout=10) as response:
        return response.read().decode()
