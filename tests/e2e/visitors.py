"""Clients that no listener may let in, and what becomes of a client that connects."""

import socket
import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinmesh_access.login import Vault
from coinmesh_local.listeners import SECONDS, Listener, Visitor
from coinmesh_local.testing import TestMesh, eventually

_PEM = serialization.Encoding.PEM


def unknown(mesh: TestMesh, directory: Path) -> list[Visitor]:
    """Those whom no listener may let in: without a certificate, a stranger's, an expired one."""
    return [
        Visitor("nobody", None),
        Visitor("stranger", _stranger(directory)),
        Visitor("expired", _expired(mesh, directory)),
    ]


def _request(key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    uri = x509.UniformResourceIdentifier("spiffe://coinmesh/svc/deploy")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deploy")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    san = x509.SubjectAlternativeName([uri])
    return builder.add_extension(san, critical=False).sign(key, hashes.SHA256())


def _written(path: Path, key: ec.EllipticCurvePrivateKey, chain: bytes) -> Path:
    private = key.private_bytes(
        _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + chain)
    return path


def _stranger(directory: Path) -> Path:
    """The deployer's names, by an authority that the mesh doesn't know."""
    key, authority = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    request, now = _request(key), datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Coinmesh services")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    for extension in request.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    chain = builder.sign(authority, hashes.SHA256()).public_bytes(_PEM)
    return _written(directory / "stranger.pem", key, chain)


def _expired(mesh: TestMesh, directory: Path) -> Path:
    """The deployer's certificate of one second, signed by Vault; returns when it has run out."""
    settings = mesh.settings
    vault = Vault(settings["COINMESH_VAULT_ADDR"], Path(settings["COINMESH_VAULT_CA"]))
    client = vault.login(mesh.home.secrets, "deploy")
    key = ec.generate_private_key(ec.SECP256R1())
    csr = _request(key).public_bytes(_PEM).decode()
    parameters = {"ttl": "1s", "exclude_cn_from_sans": True}
    answer = client.secrets.pki.sign_certificate(
        "deploy", csr, "deploy", parameters, mount_point="pki_int"
    )["data"]
    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    chain = f"{answer['certificate']}\n{answer['issuing_ca']}\n".encode()
    eventually(lambda: datetime.now(UTC) > leaf.not_valid_after_utc, "it has expired", 60)
    return _written(directory / "expired.pem", key, chain)


def _kafka_api_versions() -> bytes:
    body = struct.pack(">hhih", 18, 0, 1, -1)
    return struct.pack(">i", len(body)) + body


#: The first words of a client, by component and listener; else those of HTTP.
HELLOS = {
    ("kafka", "client"): _kafka_api_versions(),
    ("kafka", "controller"): _kafka_api_versions(),
    ("cassandra", "cql"): bytes([0x04, 0, 0, 0, 0x05]) + bytes(4),
    # It waits for a peer's introduction.
    ("cassandra", "storage"): b"",
    ("redis", "redis"): b"PING\r\n",
}
_HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: The connection preface and an empty SETTINGS frame (RFC 9113, 3.4).
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def outcome(listener: Listener, visitor: Visitor) -> str:
    """`answered`, `open` (it waits for more) or `refused`: an end without a word, or an alert."""
    stated = HELLOS.get((listener.component, listener.name))
    try:
        with (
            socket.create_connection((listener.host, listener.port), timeout=SECONDS) as plain,
            visitor.context().wrap_socket(plain) as secured,
        ):
            http = _HTTP2 if secured.selected_alpn_protocol() == "h2" else _HTTP
            secured.sendall(http if stated is None else stated)
            return "answered" if secured.recv(1) else "refused"
    except TimeoutError:
        return "open"
    except (ssl.SSLError, ConnectionError):
        return "refused"
