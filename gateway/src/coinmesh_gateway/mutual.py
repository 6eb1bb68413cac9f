"""Listeners for services: mutual TLS and access control. One of them serves Envoy's metrics."""

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
#: The only exposed paths of Envoy's admin interface, which could also stop it and reveal secrets.
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
    """Return an HTTP/1.1 listener for services with client certificates.

    Args:
        name: The listener's name, also in Envoy's statistics.
        listen: The address for services.
        tls: The listener's own certificate and the trusted CA.
        policies: Policies created by `policy`, by any name; a client without one gets 403.
        routes: Routes of permitted requests; the first match applies.
        headers: Headers added to each of these requests.
        escaped_slashes: Whether a path may contain `%2F`; otherwise such a request is rejected.
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
    """Return the policy with the permissions of a SPIFFE identity."""
    principal = {"authenticated": {"principal_name": {"exact": identity}}}
    return {"principals": [principal], "permissions": list(permissions)}


def metrics(listen: Address, admin: Path, tls: Tls) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return listener and cluster through which SCRAPERS read Envoy's metrics and readiness."""
    anything = {"any": True}
    found = listener(
        "metrics",
        listen,
        tls,
        {name: policy(f"{SERVICE_PREFIX}{name}", [anything]) for name in sorted(SCRAPERS)},
        [{"match": {"path": path}, "route": {"cluster": _ADMIN}} for path in _SHOWN],
    )
    # Metrics matter most when the public listener has reached its limit.
    return {**found, "ignore_global_conn_limit": True}, socket_cluster(_ADMIN, admin)
