"""Envoy's cache of replies that a service renders itself, for as long as its cache-control says.

The filter sends what it hasn't got past the rest of the filters to a cluster; that cluster is a
listener inside Envoy, which transcodes and goes on to the service. Off unless asked for: Envoy
calls the filter a work in progress, and nothing bounds its memory but the number of different URLs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

FILTER = "envoy.filters.http.cache_v2"
_INSIDE = "transcoding"
_TYPE = "type.googleapis.com/envoy.extensions."
_DISABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}

Hosts = Sequence[Mapping[str, Any]]


def cache_filter() -> dict[str, Any]:
    """The filter; it belongs before the transcoder."""
    storage = f"{_TYPE}http.cache_v2.simple_http_cache.v3.SimpleHttpCacheV2Config"
    return {
        "name": FILTER,
        "typed_config": {
            "@type": f"{_TYPE}filters.http.cache_v2.v3.CacheV2Config",
            "typed_config": {"@type": storage},
            "override_upstream_cluster": _INSIDE,
        },
    }


def split(hosts: Hosts, cached: frozenset[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The virtual hosts with the filter on for the routes of `cached` RPCs only, and the virtual
    host inside, which has those routes."""
    outside: list[dict[str, Any]] = []
    inside: list[Mapping[str, Any]] = []
    for host in hosts:
        routes: list[Mapping[str, Any]] = []
        for route in host["routes"]:
            if route.get("name") in cached:
                inside.append(route)
                routes.append(route)
            else:
                filters = {**route.get("typed_per_filter_config", {}), FILTER: _DISABLED}
                routes.append({**route, "typed_per_filter_config": filters})
        outside.append({**host, "routes": routes})
    removed = hosts[-1].get("response_headers_to_remove", [])
    return outside, {
        "name": _INSIDE,
        "domains": ["*"],
        "routes": inside,
        "response_headers_to_remove": removed,
    }


def inner_listener(manager: Mapping[str, Any]) -> dict[str, Any]:
    """The listener inside Envoy with its connection manager."""
    name = "envoy.filters.network.http_connection_manager"
    chain = {"filters": [{"name": name, "typed_config": dict(manager)}]}
    return {"name": _INSIDE, "internal_listener": {}, "filter_chains": [chain]}


def inner_cluster() -> dict[str, Any]:
    """The cluster that leads to it."""
    address = {"envoy_internal_address": {"server_listener_name": _INSIDE}}
    options = f"{_TYPE}upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": _INSIDE,
        "load_assignment": {
            "cluster_name": _INSIDE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def bootstrap_extension() -> dict[str, Any]:
    """What makes listeners inside Envoy possible."""
    return {
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": f"{_TYPE}bootstrap.internal_listener.v3.InternalListener"},
    }
