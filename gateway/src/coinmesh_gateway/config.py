"""The complete configuration: a pure function of catalogue, contracts and settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coinmesh_gateway import mutual, quotas, users, web
from coinmesh_gateway.bindings import bindings
from coinmesh_gateway.catalogue import Catalogue, CatalogueError, servers
from coinmesh_gateway.clusters import cluster
from coinmesh_gateway.listener import listener
from coinmesh_gateway.routes import virtual_hosts
from coinmesh_gateway.settings import Settings
from coinmesh_gateway.tls import ServerCa, Tls
from coinmesh_gateway.transcoder import transcoder
from meshkit.files import write_atomically

#: Extracts the status as a label: `cluster.<name>.grpc.14` becomes a counter `envoy_cluster_grpc`.
_GRPC_STATUS = r"^cluster\..+\.grpc(\.(\d+))$"
_STATS = ("cluster.", "http.public.", "listener.", "server.", "overload.", "cluster_manager.")


def generate(catalogue: Catalogue, descriptor_set: bytes, settings: Settings) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration.

    Raises:
        CatalogueError: The catalogue contradicts itself, the contracts or the settings.
    """
    if sum(service.front for service in catalogue.values()) > 1:
        raise CatalogueError("only one service of the catalogue can have front = true")
    tls = secured(settings)
    served = servers(catalogue)
    transcoding = transcoder(descriptor_set, served, settings.limits)
    sse = transcoder(descriptor_set, served, settings.limits, sse=True)
    rpcs = bindings(descriptor_set, served)
    hosts = virtual_hosts(catalogue, rpcs, sse, settings.origins, web.routes(settings.web))
    if settings.ratelimit:
        hosts = [{**host, "rate_limits": quotas.for_users()} for host in hosts]
    clusters = [cluster(name, settings.endpoints[name], tls) for name in catalogue]
    if settings.web:
        if tls is None or settings.vault is None:
            raise CatalogueError("--web needs certificates (--tls-dir) and users (--vault)")
        clusters += web.clusters(settings.web, tls)
    if settings.ratelimit:
        clusters.append(cluster(quotas.SERVICE, settings.ratelimit, tls))
    if settings.vault is not None and (ca := vault_ca(settings)) is not None:
        clusters.append(users.cluster(settings.vault, ca))
    if settings.tracing is not None:
        clusters.append(settings.tracing.cluster(tls))
    listeners = [listener(settings, hosts, transcoding, tls)]
    if settings.metrics is not None:
        if tls is None:
            raise CatalogueError("Envoy's numbers are shown under mutual TLS only")
        shown, admin = mutual.metrics(settings.metrics, settings.admin, tls)
        listeners.append(shown)
        clusters.append(admin)
    return {
        "node": {"id": "envoy", "cluster": "coinmesh"},
        "admin": _admin(settings),
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": settings.limits.connections,
                    },
                }
            ]
        },
        "stats_config": {
            "stats_tags": [{"tag_name": "grpc_status", "regex": _GRPC_STATUS}],
            "stats_matcher": {
                "inclusion_list": {"patterns": [{"prefix": prefix} for prefix in _STATS]}
            },
        },
    }


def secured(settings: Settings) -> Tls | None:
    """Return the transport security of the settings; None for plaintext."""
    if settings.tls_dir is None:
        return None
    if settings.secrets_dir is None:
        raise CatalogueError("certificates need a directory for the files that tell Envoy of them")
    return Tls(settings.tls_dir, settings.secrets_dir)


def vault_ca(settings: Settings) -> ServerCa | None:
    """Return the CAs of Vault's listener; None without Vault."""
    if settings.vault is None:
        return None
    if settings.secrets_dir is None:
        raise CatalogueError("Vault needs a directory for the file that names its CA to Envoy")
    return users.vault_ca(settings.vault, settings.secrets_dir)


def write_all(out: Path, document: Mapping[str, Any], *sources: Tls | ServerCa | None) -> None:
    """Write the SDS files by which Envoy follows renewals, then the configuration."""
    for source in sources:
        for path, secret in (source.secrets() if source else {}).items():
            write(path, secret)
    write(out, document)


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as JSON (also valid YAML) for its owner only, replacing it atomically."""
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _admin(settings: Settings) -> dict[str, Any]:
    return {
        "address": {"pipe": {"path": str(settings.admin), "mode": 0o600}},
        "ignore_global_conn_limit": True,
    }
