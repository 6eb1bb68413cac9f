"""What differs from one Envoy to another: addresses, certificates, origins, limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coinmesh_gateway.catalogue import Catalogue, CatalogueError
from meshkit.settings import Address

LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"


@dataclass(frozen=True)
class Limits:
    """What one Envoy takes at most."""

    request_bytes: int = 1 << 20
    response_bytes: int = 16 << 20
    headers_kib: int = 32
    headers: int = 100
    streams_per_connection: int = 100
    connections: int = 10_000
    compressed_from_bytes: int = 8192


@dataclass(frozen=True)
class Settings:
    """One Envoy.

    Attributes:
        listen: Where users connect; port 0 asks the system for a free one.
        admin: Where Envoy's own interface listens: loopback only.
        endpoints: The replicas of each service of the catalogue.
        tls_dir: The directory whose current/ holds tls.key, tls.crt and ca.crt; None for plaintext
            on the listener and on every connection to a service.
        secrets_dir: Where the files are written that tell Envoy to follow renewals in `tls_dir`.
        origins: The web origins (an RE2 pattern of all of them) whose pages may call.
        cache: Whether replies that a service renders itself are kept as its cache-control allows.
        limits: What it takes at most.
    """

    listen: Address
    admin: Address
    endpoints: Mapping[str, tuple[Address, ...]]
    tls_dir: Path | None = None
    secrets_dir: Path | None = None
    origins: str = LOOPBACK_ORIGINS
    cache: bool = False
    limits: Limits = field(default_factory=Limits)


def parse_address(flag: str, text: str) -> Address:
    """An address given to the command; CatalogueError names the flag."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise CatalogueError(f"{flag} {text!r}: {error}") from error


def parse_endpoints(catalogue: Catalogue, options: Iterable[str]) -> dict[str, tuple[Address, ...]]:
    """Reads `NAME=HOST:PORT[,HOST:PORT…]` for every service of the catalogue.

    Raises:
        CatalogueError: One is malformed, unknown, given twice or missing.
    """
    found: dict[str, tuple[Address, ...]] = {}
    for option in options:
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
