"""What differs from one Envoy to another: addresses, certificates, origins, limits."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coinmesh_gateway.catalogue import Catalogue, CatalogueError
from coinmesh_gateway.tracing import Tracing
from coinmesh_gateway.users import Vault
from meshkit.settings import Address

#: What `sun_path` holds without the byte that ends it (unix(7)).
_SOCKET_BYTES = 107
LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


@dataclass(frozen=True)
class Limits:
    """What one Envoy takes at most; how long a service may take stands in the catalogue.

    Attributes:
        request_bytes: Of a request's body, and of what is buffered for one connection.
        response_bytes: Of a reply that is transcoded in one piece.
        headers_kib: Of all of a request's headers together.
        headers: Their number.
        headers_seconds: Until a request's headers are there.
        request_seconds: Until a request is there as a whole.
        silent_seconds: How long a request or reply may stand still, where no route says otherwise.
        idle_seconds: How long a connection may have nothing to do.
        streams_per_connection: Requests at a time on an HTTP/2 connection.
        connections: At a time, to the public listener.
        compressed_from_bytes: Smaller replies aren't compressed.
    """

    request_bytes: int = 1 << 20
    response_bytes: int = 16 << 20
    headers_kib: int = 32
    headers: int = 100
    headers_seconds: float = 10
    request_seconds: float = 60
    silent_seconds: float = 300
    idle_seconds: float = 3600
    streams_per_connection: int = 100
    connections: int = 10_000
    compressed_from_bytes: int = 8192


@dataclass(frozen=True)
class Settings:
    """One Envoy.

    Attributes:
        listen: Where users connect; port 0 asks the system for a free one.
        admin: The Unix socket of Envoy's own interface, for its user alone.
        endpoints: The replicas of each service of the catalogue.
        web: The Envoys before HTTP servers; users find each below /<its name>.
        metrics: Where Prometheus reads Envoy's numbers under mutual TLS; None for nowhere.
        tls_dir: The directory whose current/ holds tls.key, tls.crt and ca.crt; None for plaintext
            on the listener and on every connection to a service.
        secrets_dir: Where the files are written that make Envoy follow renewals in `tls_dir`
            and of Vault's CA.
        origins: The web origins (an RE2 pattern of all of them) whose pages may call.
        limits: What it takes at most.
        vault: Whose tokens users show; None lets everybody in, as nobody: for tests of the rest.
        ratelimit: The replicas of envoyproxy/ratelimit; empty: no quotas.
        tracing: Where spans go; None for nowhere.
    """

    listen: Address
    admin: Path
    endpoints: Mapping[str, tuple[Address, ...]]
    web: Mapping[str, Address] = field(default_factory=dict)
    metrics: Address | None = None
    tls_dir: Path | None = None
    secrets_dir: Path | None = None
    origins: str = LOOPBACK_ORIGINS
    limits: Limits = field(default_factory=Limits)
    vault: Vault | None = None
    ratelimit: tuple[Address, ...] = ()
    tracing: Tracing | None = None


def parse_address(flag: str, text: str) -> Address:
    """An address given to the command; CatalogueError names the flag."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise CatalogueError(f"{flag} {text!r}: {error}") from error


def socket_path(path: Path) -> Path:
    """Where a Unix socket is to be; CatalogueError when a socket's address can't hold the path."""
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        raise CatalogueError(
            f"the path of a Unix socket has at most {_SOCKET_BYTES} bytes, and {path} has "
            f"{len(os.fsencode(path))}: choose a shorter directory (COINMESH_HOME)"
        )
    return path


def parse_web(options: Iterable[str]) -> dict[str, Address]:
    """Reads `NAME=HOST:PORT`, several to an option; CatalogueError when one is malformed."""
    found: dict[str, Address] = {}
    for option in " ".join(options).split():
        name, equals, address = option.partition("=")
        if not equals:
            raise CatalogueError(f"--web {option!r}: expected NAME=HOST:PORT")
        found[name] = parse_address(f"--web {name}=", address)
    return found


def parse_endpoints(catalogue: Catalogue, options: Iterable[str]) -> dict[str, tuple[Address, ...]]:
    """Reads `NAME=HOST:PORT[,HOST:PORT…]`, several to an option, for all of the catalogue.

    Raises:
        CatalogueError: One is malformed, unknown, given twice or missing.
    """
    found: dict[str, tuple[Address, ...]] = {}
    for option in " ".join(options).split():
        name, equals, addresses = option.partition("=")
        if not equals or not addresses:
            raise CatalogueError(f"--service {option!r}: expected NAME=HOST:PORT[,HOST:PORT…]")
        if name not in catalogue:
            known = ", ".join(sorted(catalogue))
            raise CatalogueError(f"--service {name}: unknown; the catalogue has {known}")
        if name in found:
            raise CatalogueError(f"--service {name}: given twice; join its addresses with a comma")
        found[name] = tuple(
            parse_address(f"--service {name}=", part) for part in addresses.split(",")
        )
    if missing := [name for name in catalogue if name not in found]:
        raise CatalogueError(
            f"no address for {', '.join(missing)}; add "
            + " ".join(f"--service {name}=HOST:PORT" for name in missing)
        )
    return found
