"""TLS on the listener, mutual TLS to the services, certificates renewed while it runs."""

import datetime
import ipaddress
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshkit.settings import Address
from meshkit.tls import KeyPair

pytestmark = pytest.mark.component

LOCAL = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
PEM = serialization.Encoding.PEM


@dataclass
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pems(self) -> tuple[bytes, bytes]:
        plain = serialization.NoEncryption()
        key = self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain)
        return key, self.certificate.public_bytes(PEM)


def issue(names: list[x509.GeneralName], issuer: Pair | None = None) -> Pair:
    """A certificate for `names`; an authority of its own without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    common_name = "service" if issuer else "authority"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def service(name: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(f"spiffe://coinmesh/svc/{name}"), LOCAL]


class Authority:
    """Issues to services and publishes Envoy's own pair as whoever renews it does."""

    def __init__(self, directory: Path) -> None:
        self.root, self.tls_dir = issue([]), directory
        self.publish()

    def publish(self) -> int:
        """Swaps in a new pair; its serial number."""
        pair = issue(service("envoy"), self.root)
        target = self.tls_dir / f"{pair.certificate.serial_number}"
        target.mkdir()
        for name, pem in zip(
            ("tls.key", "tls.crt", "ca.crt"), (*pair.pems, self.root.pems[1]), strict=True
        ):
            (target / name).write_bytes(pem)
        link = self.tls_dir / "next"
        link.symlink_to(target.name)
        link.rename(self.tls_dir / "current")
        return pair.certificate.serial_number

    def credentials(self, name: str) -> grpc.ServerCredentials:
        pair = issue(service(name), self.root)
        return grpc.ssl_server_credentials(
            [pair.pems], root_certificates=self.root.pems[1], require_client_auth=True
        )

    def trusting(self, name: str = "") -> ssl.SSLContext:
        """A client's context, with the certificate of `name`."""
        context = ssl.create_default_context(cadata=self.root.pems[1].decode())
        if name:
            file = self.tls_dir / f"{name}.pem"
            file.write_bytes(b"".join(issue(service(name), self.root).pems))
            context.load_cert_chain(file)
        return context


@dataclass
class Secured:
    """Envoy under TLS with its authority; its collector claims to be another service."""

    envoy: Any
    authority: Authority

    def serial(self) -> int:
        """The serial number of the certificate that the listener shows."""
        pem = ssl.get_server_certificate(tuple(self.envoy.address))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
    start_envoy: Callable[..., Any],
    start_gateway: Callable[..., Any],
    start_collector: Callable[..., Any],
) -> Iterator[Secured]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    backends = {
        "query-gateway": [start_gateway("1", credentials=authority.credentials("query-gateway"))],
        "collector-binance": [start_collector(credentials=authority.credentials("intruder"))],
    }
    with pytest.MonkeyPatch.context() as short:
        short.setattr(KeyPair, "connection_seconds", 0.5)
        envoy = start_envoy(
            backends,
            tls_dir=authority.tls_dir,
            verify=authority.trusting(),
            metrics=Address("127.0.0.1", 0),
        )
    yield Secured(envoy, authority)
    for replicas in backends.values():
        replicas[0].stop()


def test_rest_and_grpc_under_tls(secured: Secured) -> None:
    assert secured.envoy.rest.get("/v1/tickers").json()["tickers"] == []
    credentials = grpc.ssl_channel_credentials(secured.authority.root.pems[1])
    with grpc.secure_channel(str(secured.envoy.address), credentials) as channel:
        call = channel.unary_unary("/coinmesh.market.v1.MarketService/ListTickers")
        assert call(b"") == b"\x12\x010"


def test_a_backend_that_is_not_who_it_should_be_gets_no_request(secured: Secured) -> None:
    response = secured.envoy.rest.get("/v1/collectors/binance/status")
    assert response.status_code == 503
    assert response.json()["details"][0]["reason"] == "BACKEND_UNAVAILABLE"


def test_a_renewed_certificate_is_shown(secured: Secured, eventually: Any) -> None:
    assert secured.serial()
    renewed = secured.authority.publish()
    eventually("the new certificate is shown", lambda: secured.serial() == renewed)
    assert secured.envoy.rest.get("/v1/tickers").status_code == 200


def test_connections_end_before_their_certificate_and_no_request_is_lost(secured: Secured) -> None:
    seen = set[tuple[str, int]]()
    while len(seen) < 3:
        with secured.envoy.rest.stream("GET", "/v1/tickers") as response:
            assert response.status_code == 200
            seen.add(response.extensions["network_stream"].get_extra_info("client_addr"))


def shown(secured: Secured, name: str, path: str) -> int:
    """The status with which a path of the metrics listener answers a service."""
    url = f"https://{secured.envoy.metrics}{path}"
    return httpx.get(url, verify=secured.authority.trusting(name)).status_code


def test_numbers_are_shown_to_those_who_scrape_alone(secured: Secured) -> None:
    for path in ("/stats/prometheus?usedonly", "/ready"):
        assert shown(secured, "prometheus", path) == 200
        assert shown(secured, "query-gateway", path) == 403
        with pytest.raises(httpx.TransportError):
            shown(secured, "", path)
    for path in ("/config_dump", "/quitquitquit", "/stats", "/"):
        assert shown(secured, "prometheus", path) == 404


def test_envoys_own_interface_is_for_its_user_alone(secured: Secured) -> None:
    assert stat.S_IMODE((secured.envoy.directory / "admin.sock").stat().st_mode) == 0o600
