"""Listeners for services: mutual TLS, and who may ask what. Envoy's own numbers go by one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coinmesh_gateway.clusters import socket_cluster
from coinmesh_gateway.listener import http_filter
from coinmesh_gateway.tls import Tls
from meshkit.metrics import SCRAPERS
from meshkit.settings import Address
from meshkit.tls import SERVICE_PREFIX

_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_ADMIN = "admin"
#: What is passed on to Envoy's own interface, which could also stop it and tell its secrets.
_SHOWN = ("/ready", "/stats/prometheus")


def listener(
    name: str,
    listen: Address,
    tls: Tls,
    policies: Mapping[str, Any],
    routes: Sequence[Mapping[str, Any]],
    *,
    headers: Iterable[Mapping[str, Any]] = (),
    escaped_slashes: bool = False,
) -> dict[str, Any]:
    """HTTP/1.1 for services that show their certificate.

    Args:
        name: Of the listener, in what Envoy counts too.
        listen: Where services connect.
        tls: Its own certificate, and who signs those of the others.
        policies: Made by `policy`, by any name; whom none lets ask is refused with 403.
        routes: Of requests that are let through; the first that fits.
        headers: Put into each of these.
        escaped_slashes: Whether a path may hold `%2F`; else such a request is refused.
    """
    rules = {"action": "ALLOW", "policies": dict(policies)}
    manager = {
        "@type": _MANAGER,
        "stat_prefix": name,
        "common_http_protocol_options": {**tls.connection(), "idle_timeout": "300s"},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": (
            "KEEP_UNCHANGED" if escaped_slashes else "REJECT_REQUEST"
        ),
        "http_filters": [
            http_filter("rbac", "rbac.v3.RBAC", rules=rules),
            http_filter("router", "router.v3.Router"),
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "request_headers_to_add": list(headers),
                    "routes": list(routes),
                }
            ]
        },
    }
    chain = {
        "transport_socket": tls.mutual(),
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        "enable_reuse_port": False,
        "filter_chains": [chain],
    }


def policy(identity: str, permissions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a SPIFFE identity may ask."""
    principal = {"authenticated": {"principal_name": {"exact": identity}}}
    return {"principals": [principal], "permissions": list(permissions)}


def metrics(listen: Address, admin: Path, tls: Tls) -> tuple[dict[str, Any], dict[str, Any]]:
    """Listener and cluster by which SCRAPERS read Envoy's numbers and whether it is ready."""
    anything = {"any": True}
    found = listener(
        "metrics",
        listen,
        tls,
        {name: policy(f"{SERVICE_PREFIX}{name}", [anything]) for name in sorted(SCRAPERS)},
        [{"match": {"path": path}, "route": {"cluster": _ADMIN}} for path in _SHOWN],
    )
    # Its numbers are wanted most when the public listener is full.
    return {**found, "ignore_global_conn_limit": True}, socket_cluster(_ADMIN, admin)
