"""Every port that a running mesh listens on, and its certificate; for tests and benchmarks."""

import socket
import ssl
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from cryptography import x509

from coinmesh_local import processes
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.testing import TestMesh
from coinmesh_manifests.discovery import discover

SECONDS = 3.0


@dataclass(frozen=True, order=True)
class Listener:
    """A port that a process of the mesh listens on; `name` is "*" when it is not declared."""

    component: str
    name: str
    host: str
    port: int


def listeners(mesh: TestMesh) -> Iterator[Listener]:
    """Yield the listeners found in /proc: those of all processes of the mesh, declared or not."""
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
    """Return the rows of deploy/access/listeners.toml by component and listener.

    A row with `provision` applies to every manifest that provisions that package.
    """
    text = (CHECKOUT / "deploy" / "access" / "listeners.toml").read_text()
    provisions = {name: manifest.run.provision for name, manifest in discover().items()}
    return {
        (component, row["listener"]): row
        for row in tomllib.loads(text)["listener"]
        for component in (
            [row["component"]]
            if "component" in row
            else [name for name, parts in provisions.items() if row["provision"] in parts]
        )
    }


def older() -> set[tuple[str, str]]:
    """Return component and listener where TLS 1.2 is allowed; "" stands for every component."""
    text = (CHECKOUT / "deploy" / "access" / "listeners.toml").read_text()
    return {(row["component"], row["listener"]) for row in tomllib.loads(text)["tls12"]}


def closed(mesh: TestMesh) -> list[Listener]:
    """Return the listeners that serve a certificate of the mesh; OpenBao has separate ones."""
    rows = exceptions()
    return [
        each
        for each in sorted(set(listeners(mesh)))
        if not rows.get((each.component, each.name), {}).get("plaintext")
        and each.component != "openbao"
    ]


def issued_serial(mesh: TestMesh, identity: str) -> int:
    """Return the serial number of an identity's current certificate."""
    text = (mesh.home.tls / identity / "current" / "tls.crt").read_bytes()
    return x509.load_pem_x509_certificate(text).serial_number


@dataclass(frozen=True)
class Visitor:
    """A TLS client; `file` holds its certificate chain and key, None for no certificate."""

    name: str
    file: Path | None
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    def context(self) -> ssl.SSLContext:
        """Return a context that accepts any certificate: the test observes the server only."""
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
    """Return a client with the service's current certificate that offers TLS up to `newest`."""
    return Visitor(service, mesh.home.tls / service / "current" / "keystore.pem", newest)


def served(listener: Listener, visitor: Visitor) -> int:
    """Return the serial number of the certificate that a listener serves, -1 if unreachable."""
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
