"""Mutual TLS with certificates made here: who gets in, who may call what, and renewals."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meshkit.authz import ROLE_HEADER, rules
from meshkit.errors import error_info
from meshkit.peer import caller
from meshkit.rotation import RotatingChannel
from meshkit.settings import MeshSettings, ServiceSettings, SettingsError
from meshkit.tls import channel, client_ssl_context, is_loopback, kafka_client_config

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

    def issue(self, service: str, directory: str | None = None) -> Path:
        """A new certificate for `spiffe://…/svc/<service>`, published by one rename."""
        tls_dir = self.root / (directory or service)
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.UniformResourceIdentifier(f"spiffe://coinmesh.local/svc/{service}"),
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


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def client(tls_dir: Path | None) -> MeshSettings:
    return MeshSettings(tls_dir=tls_dir)


def server(tls_dir: Path, **values: Any) -> ServiceSettings:
    return ServiceSettings(tls_dir=tls_dir, drain_grace_seconds=0.1, **values)


class Market(market_grpc.MarketServiceServicer):
    async def GetInstrument(self, request: Any, context: Any) -> Any:
        assert caller(context) is not None
        return market.GetInstrumentResponse() if hasattr(market, "GetInstrumentResponse") else None


async def whoami(request: bytes, context: Any) -> bytes:
    return (caller(context) or "").encode()


MARKET = [(market_grpc.add_MarketServiceServicer_to_server, Market())]
GET = "/coinmesh.market.v1.MarketService/GetInstrument"


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_info(error) if error.trailing_metadata() else None
        return error.code(), info.reason if info else ""
    return grpc.StatusCode.OK, ""


def test_every_rpc_of_the_contract_has_a_rule():
    service = market.DESCRIPTOR.services_by_name["MarketService"]
    table = rules([service.full_name])
    assert set(table) == {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert all(rule.callers for rule in table.values())


@pytest.mark.parametrize(
    ("name", "metadata", "expected"),
    [
        ("alerting", [], "OK"),
        ("envoy", [(ROLE_HEADER, "viewer")], "OK"),
        ("envoy", [(ROLE_HEADER, "admin")], "OK"),
        ("envoy", [], "ROLE_NOT_SUFFICIENT"),
        ("envoy", [(ROLE_HEADER, "root")], "ROLE_NOT_SUFFICIENT"),
        ("envoy", [(ROLE_HEADER, "viewer"), (ROLE_HEADER, "admin")], "ROLE_NOT_SUFFICIENT"),
        ("intruder", [(ROLE_HEADER, "admin")], "CALLER_NOT_ALLOWED"),
    ],
)
async def test_the_contract_says_who_may_call(
    service: Any, authority: Authority, name: str, metadata: list[tuple[str, str]], expected: str
):
    settings = server(authority.issue("query-gateway"))
    async with service(settings=settings, servicers=MARKET) as started:
        target = f"localhost:{started.running.grpc.port}"
        async with channel(target, client(authority.issue(name, "client"))) as to_it:
            call = to_it.unary_unary(GET, request_serializer=bytes)(b"", metadata=metadata)
            code, reason = await code_of(call)
            if expected == "OK":
                # The servicer's own methods that aren't written answer UNIMPLEMENTED.
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL), reason
                assert reason in ("", "INTERNAL")
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED
                assert reason == expected
            health = health_pb2_grpc.HealthStub(to_it)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status
