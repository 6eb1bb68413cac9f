"""The arguments of `coinmesh-envoy-config` and the resulting settings."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from coinmesh_gateway.catalogue import Catalogue, CatalogueError
from coinmesh_gateway.settings import (
    LOOPBACK_ORIGINS,
    Settings,
    parse_address,
    parse_endpoints,
    parse_web,
    socket_path,
)
from coinmesh_gateway.tracing import Tracing
from coinmesh_gateway.users import Vault
from coinmesh_manifests.discovery import CHECKOUT
from meshkit.settings import Address, TelemetrySettings, read


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exit with status 2 when the usage is wrong."""
    return _parser().parse_args(arguments)


def settings(options: argparse.Namespace, catalogue: Catalogue) -> Settings:
    """Return the settings of the options; raise CatalogueError when one is wrong."""
    return Settings(
        listen=parse_address("--listen", options.listen),
        admin=socket_path(options.admin.absolute()),
        metrics=options.metrics and parse_address("--metrics", options.metrics),
        endpoints=parse_endpoints(catalogue, options.service),
        web=parse_web(options.web),
        tls_dir=options.tls_dir and options.tls_dir.absolute(),
        secrets_dir=Path(options.out).absolute().parent,
        origins=options.origins,
        vault=_vault(options),
        ratelimit=_addresses("--ratelimit", options.ratelimit),
        tracing=Tracing.of(read(TelemetrySettings)),
    )


def _vault(options: argparse.Namespace) -> Vault | None:
    if options.vault is None:
        return None
    if options.vault_ca is None:
        raise CatalogueError("--vault needs --vault-ca FILE, the authority of its certificate")
    vault = Vault(options.vault.rstrip("/"), options.vault_ca.absolute())
    _ = vault.address
    return vault


def _addresses(flag: str, text: str | None) -> tuple[Address, ...]:
    return tuple(parse_address(flag, part) for part in text.split(",")) if text else ()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coinmesh-envoy-config", description="Writes Envoy's configuration."
    )
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="where the configuration goes (JSON)")
    add("--listen", required=True, metavar="HOST:PORT", help="where users connect")
    add("--admin", required=True, type=Path, metavar="SOCKET", help="Envoy's own interface")
    add("--metrics", metavar="HOST:PORT", help="where Prometheus reads its numbers (mutual TLS)")
    add(
        "--service",
        action="append",
        default=[],
        metavar="NAME=HOST:PORT,…",
        help="the replicas of each service of the catalogue; several may stand in one option",
    )
    add(
        "--web",
        action="append",
        default=[],
        metavar="NAME=HOST:PORT",
        help="the Envoy before an HTTP server, which users find below /NAME",
    )
    add("--tree", type=Path, default=CHECKOUT, metavar="DIR", help="where the manifests lie")
    add("--tls-dir", type=Path, metavar="DIR", help="certificates; plaintext without it")
    add("--vault", metavar="URL", help="https://HOST:PORT; whose tokens let users in")
    add("--vault-ca", type=Path, metavar="FILE", help="the authority of its certificate")
    add("--ratelimit", metavar="HOST:PORT,…", help="the replicas of envoyproxy/ratelimit")
    add("--origins", default=LOOPBACK_ORIGINS, metavar="REGEX", help="web origins that may call")
    return parser
