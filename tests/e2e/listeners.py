"""Every listening port of a running mesh, and what becomes of a client that comes there."""

import socket
import ssl
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coinmesh_access.login import Vault
from coinmesh_local import processes
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.testing import TestMesh, eventually

SECONDS = 3.0
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, order=True)
class Listener:
    """A port that a process of the mesh listens on; `name` is "*" when no file states it."""

    component: str
    name: str
    host: str
    port: int


def listeners(mesh: TestMesh) -> Iterator[Listener]:
    """What listens, as /proc shows it: all processes of the mesh, whatever they opened."""
    definitions = mesh.mesh
    owners = {n: c for c in definitions.definitions for n in definitions.instance_names(c)}
    for instance, found in processes.find(mesh.home.root).items():
        component = owners[instance]
        stated = {
            number: name
            for name, numbers in definitions.ports[component].items()
            for number in numbers
        }
        for pid in found.members:
            for each in _listening(pid):
                yield Listener(component, stated.get(each.port, "*"), each.ip, each.port)


def _listening(pid: int) -> list[Any]:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []
    return [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]


def exceptions() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of deploy/access/listeners.toml by component and listener."""
    text = (CHECKOUT / "deploy" / "access" / "listeners.toml").read_text()
    rows = tomllib.loads(text)["listener"]
    return {(row["component"], row["listener"]): row for row in rows}


def older() -> set[tuple[str, str]]:
    """Component and listener of those that may speak TLS 1.2; "" for every component's."""
    text = (CHECKOUT / "deploy" / "access" / "listeners.toml").read_text()
    return {(row["component"], row["listener"]) for row in tomllib.loads(text)["tls12"]}


def closed(mesh: TestMesh) -> list[Listener]:
    """Those that serve a certificate of the mesh; OpenBao's are its own."""
    rows = exceptions()
    return [
        each
        for each in sorted(set(listeners(mesh)))
        if not rows.get((each.component, each.name), {}).get("plaintext")
        and each.component != "openbao"
    ]


def made(mesh: TestMesh, identity: str) -> int:
    """The serial number of the certificate that an identity has now."""
    text = (mesh.home.tls / identity / "current" / "tls.crt").read_bytes()
    return x509.load_pem_x509_certificate(text).serial_number


# -- who comes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visitor:
    """A client: its certificate chain and key in one file, or none."""

    name: str
    file: Path | None
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    def context(self) -> ssl.SSLContext:
        """It doesn't look at the server's certificate: what the server does is asked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = self.newest
        context.set_alpn_protocols(["h2", "http/1.1"])
        if self.file is not None:
            context.load_cert_chain(self.file)
        return context


def of_the_mesh(
    mesh: TestMesh, service: str, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Visitor:
    """A service with the certificate that it has now, and the newest TLS that it speaks."""
    return Visitor(service, mesh.home.tls / service / "current" / "keystore.pem", newest)


def served(listener: Listener, visitor: Visitor) -> int:
    """The serial number of the certificate that a listener shows, -1 while it can't be reached."""
    address = (listener.host, listener.port)
    try:
        with (
            socket.create_connection(address, timeout=SECONDS) as plain,
            visitor.context().wrap_socket(plain) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except (TimeoutError, ssl.SSLError, ConnectionError):
        return -1
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


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


# -- what becomes of it ---------------------------------------------------------------------------


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
