"""Settings of one Envoy: addresses, certificates, origins, limits."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coinmesh_gateway.catalogue import Catalogue, CatalogueError
from coinmesh_gateway.tracing import Tracing
from coinmesh_gateway.users import Vault
from meshkit.settings import Address

#: The size of `sun_path` without the terminating byte (unix(7)).
_SOCKET_BYTES = 107
LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


@dataclass(frozen=True)
class Limits:
    """Limits of one Envoy; timeouts of services are in the catalogue.

    Attributes:
        request_bytes: Size of a request's body, and of a connection's buffer.
        response_bytes: Size of a reply that is transcoded as a whole.
        headers_kib: Total size of a request's headers.
        headers: Number of headers.
        headers_seconds: Time to receive a request's headers.
        request_seconds: Time to receive a complete request.
        silent_seconds: Idle time of a request or reply, unless a route overrides it.
        idle_seconds: Idle time of a connection.
        streams_per_connection: Concurrent requests on an HTTP/2 connection.
        connections: Concurrent connections to the public listener.
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
    """Settings of one Envoy.

    Attributes:
        listen: The public address; port 0 selects a free one.
        admin: The Unix socket of Envoy's admin interface, accessible to its user only.
        endpoints: The replicas of each service of the catalogue.
        web: The Envoys in front of HTTP servers; each is reachable below /<its name>.
        metrics: The address of Envoy's metrics under mutual TLS; None for no listener.
        tls_dir: The directory whose current/ holds tls.key, tls.crt and ca.crt; None for plaintext
            on the listener and on every connection to a service.
        secrets_dir: The directory of the SDS files, by which Envoy follows renewals in `tls_dir`
            and of Vault's CA.
        origins: The web origins (an RE2 pattern of all of them) whose pages may send requests.
        limits: The limits.
        vault: The issuer of users' tokens; None disables authentication, for tests of the rest.
        ratelimit: The replicas of envoyproxy/ratelimit; empty: no quotas.
        tracing: The destination of spans; None for no tracing.
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
    """Return the address in an argument; raise CatalogueError with the flag if it is invalid."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise CatalogueError(f"{flag} {text!r}: {error}") from error


def socket_path(path: Path) -> Path:
    """Return the path of a Unix socket; CatalogueError when it exceeds a socket address."""
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        raise CatalogueError(
            f"the path of a Unix socket has at most {_SOCKET_BYTES} bytes, and {path} has "
            f"{len(os.fsencode(path))}: choose a shorter directory (COINMESH_HOME)"
        )
    return path


def parse_web(options: Iterable[str]) -> dict[str, Address]:
    """Parse `NAME=HOST:PORT`, several per option; CatalogueError when one is malformed."""
    found: dict[str, Address] = {}
    for option in " ".join(options).split():
        name, equals, address = option.partition("=")
        if not equals:
            raise CatalogueError(f"--web {option!r}: expected NAME=HOST:PORT")
        found[name] = parse_address(f"--web {name}=", address)
    return found


def parse_endpoints(catalogue: Catalogue, options: Iterable[str]) -> dict[str, tuple[Address, ...]]:
    """Parse `NAME=HOST:PORT[,HOST:PORT…]`, several per option, for the whole catalogue.

    Raises:
        CatalogueError: One is malformed, unknown, repeated or missing.
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
