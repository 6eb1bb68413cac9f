"""Third-party HTTP servers for users, each below its own path and behind its own Envoy.

Users of any role may read there; changes require an editor or an admin. The server receives the
user's identity in the same headers as services; tokens and all cookies are not forwarded.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from coinmesh_gateway import transcoder
from coinmesh_gateway.clusters import mutual_cluster
from coinmesh_gateway.tls import Tls
from coinmesh_gateway.users import JWT_FILTER, PAYLOAD
from meshkit.settings import Address

RBAC_FILTER = "envoy.filters.http.rbac"
_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_DISABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
_READING = "GET|HEAD|OPTIONS"
_EDITORS = ("editor", "admin")


def routes(servers: Mapping[str, Address]) -> Iterator[dict[str, Any]]:
    """Yield a route to each server, by the first part of the path."""
    for name in servers:
        yield {
            "match": {"path_separated_prefix": f"/{name}"},
            "route": {"cluster": name, "timeout": "60s"},
            "request_headers_to_remove": ["cookie"],
            "typed_per_filter_config": {transcoder.NAME: _DISABLED, RBAC_FILTER: _by_role()},
        }


def clusters(servers: Mapping[str, Address], tls: Tls) -> Iterator[dict[str, Any]]:
    """Yield the cluster of each server, whose certificate must have its name."""
    for name, address in servers.items():
        yield mutual_cluster(name, address, name, tls)


def role_filter() -> dict[str, Any]:
    """Return a filter that permits every request unless a route overrides it."""
    return {"name": RBAC_FILTER, "typed_config": {"@type": f"{_HTTP}rbac.v3.RBAC"}}


def _by_role() -> dict[str, Any]:
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": _READING}}}
    policies = {
        "reading": {"permissions": [{"header": method}], "principals": [{"any": True}]},
        "changing": {
            "permissions": [{"any": True}],
            "principals": [_holds(role) for role in _EDITORS],
        },
    }
    rules = {"action": "ALLOW", "policies": policies}
    return {"@type": f"{_HTTP}rbac.v3.RBACPerRoute", "rbac": {"rules": rules}}


def _holds(role: str) -> dict[str, Any]:
    held = {
        "filter": JWT_FILTER,
        "path": [{"key": PAYLOAD}, {"key": "roles"}],
        "value": {"list_match": {"one_of": {"string_match": {"exact": role}}}},
    }
    return {"sourced_metadata": {"metadata_matcher": held, "metadata_source": "DYNAMIC"}}
