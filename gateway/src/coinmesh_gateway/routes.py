"""Envoy's routes: by authority and path for gRPC, by the contracts' HTTP bindings for REST."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coinmesh_gateway import quotas, transcoder, users
from coinmesh_gateway.bindings import Binding
from coinmesh_gateway.catalogue import Catalogue, CatalogueError, Service, servers
from coinmesh_gateway.clusters import authority

_ROUTE = "type.googleapis.com/envoy.config.route.v3."
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
_GRPC_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.")
# The request has not reached the service: a retry is safe for any call.
_SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"
_GET_RETRIES = f"{_SAFE_RETRIES},reset,unavailable"
_DISABLED = {"@type": f"{_ROUTE}FilterConfig", "disabled": True}
# Tokens are not forwarded: services receive the user's identity in headers.
_WITHOUT_COOKIES = {"request_headers_to_remove": ["cookie"]}
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")


def virtual_hosts(
    catalogue: Catalogue,
    bindings: Sequence[Binding],
    sse_transcoder: Mapping[str, Any],
    origins: str,
    more: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return a virtual host for each service's gRPC authority, and one for everything else.

    `more` are additional routes of the latter, after those of the contracts.

    Raises:
        CatalogueError: Two services would serve the same REST path.
    """
    by_authority = [
        {
            "name": name,
            "domains": [authority(name)],
            "routes": [_grpc("/", name, service)],
        }
        for name, service in catalogue.items()
    ]
    public = {
        "name": "public",
        "domains": ["*"],
        "routes": [
            *_grpc_by_path(catalogue),
            _preflight(next(iter(catalogue))),
            _foreign_origin(origins),
            *_rest(catalogue, bindings, sse_transcoder),
            *more,
            _refusal({"prefix": "/"}, 404),
        ],
        "typed_per_filter_config": {"envoy.filters.http.cors": _cors(origins)},
        "response_headers_to_remove": ["grpc-accept-encoding", "accept-encoding"],
    }
    return [*by_authority, public]


def _grpc_by_path(catalogue: Catalogue) -> Iterable[dict[str, Any]]:
    for grpc, names in servers(catalogue).items():
        if len(names) == 1:
            yield _grpc(f"/{grpc}/", names[0], catalogue[names[0]])
    for name, service in catalogue.items():
        if service.front:
            yield from (_grpc(prefix, name, service) for prefix in _GRPC_INFRASTRUCTURE)


def _grpc(prefix: str, name: str, service: Service) -> dict[str, Any]:
    return {
        "match": {"prefix": prefix, "grpc": {}},
        # A stream's requests are forwarded without buffering.
        "typed_per_filter_config": {"envoy.filters.http.buffer": _DISABLED},
        # The service enforces the caller's deadline; a stream has none.
        "route": {
            "cluster": name,
            "timeout": "0s",
            "idle_timeout": _seconds(service.idle),
            "retry_policy": _retries(_SAFE_RETRIES),
        },
        **_WITHOUT_COOKIES,
    }


def _rest(
    catalogue: Catalogue, bindings: Sequence[Binding], sse_transcoder: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    methods: dict[str, dict[str, str]] = {}
    routes: list[dict[str, Any]] = []
    for binding in bindings:
        for name, service in catalogue.items():
            if binding.rpc.rpartition(".")[0] not in service.grpc:
                continue
            path = binding.path_regex(service.bind)
            other = methods.setdefault(path, {}).setdefault(binding.method, name)
            if other != name:
                raise CatalogueError(
                    f"{other} and {name} would both answer {binding.method} {binding.template}; "
                    "give each its own value of a path variable under bind"
                )
            routes += _rpc(binding, path, name, service, sse_transcoder)
    for path, allowed in methods.items():
        headers = [{"header": {"key": "allow", "value": ", ".join(sorted(allowed))}}]
        routes.append(
            {**_refusal({"safe_regex": {"regex": path}}, 405), "response_headers_to_add": headers}
        )
    return routes


def _rpc(
    binding: Binding,
    path: str,
    name: str,
    service: Service,
    sse_transcoder: Mapping[str, Any],
) -> Iterable[dict[str, Any]]:
    match: dict[str, Any] = {
        "safe_regex": {"regex": path},
        "headers": [{"name": ":method", "string_match": {"exact": binding.method}}],
    }
    action: dict[str, Any] = {
        "cluster": name,
        "timeout": "0s" if binding.streams else _seconds(service.timeout),
        "retry_policy": _retries(
            _GET_RETRIES if binding.method == "GET" and not binding.streams else _SAFE_RETRIES
        ),
    }
    if binding.open:
        # The caller has no identity yet: attempts are counted by address.
        action["rate_limits"] = quotas.for_logins()
        filters = users.without_token()
        yield {"match": match, "route": action, "typed_per_filter_config": filters}
        return
    if not binding.streams:
        yield {"match": match, "route": action, **_WITHOUT_COOKIES}
        return
    action["idle_timeout"] = _seconds(service.idle)
    # Compression would delay a stream's messages until the next ones.
    filters: dict[str, Any] = {"envoy.filters.http.compressor": _no_compression()}
    if not binding.raw:
        accepts = {"name": "accept", "string_match": {"contains": "text/event-stream"}}
        yield {
            "match": {**match, "headers": [*match["headers"], accepts]},
            "route": action,
            "typed_per_filter_config": {**filters, transcoder.NAME: dict(sse_transcoder)},
            **_WITHOUT_COOKIES,
        }
    yield {
        "match": match,
        "route": action,
        "typed_per_filter_config": filters,
        **_WITHOUT_COOKIES,
    }


def _preflight(cluster: str) -> dict[str, Any]:
    """Match CORS preflights: the filter answers them before the route is used, but needs one."""
    headers = [
        {"name": ":method", "string_match": {"exact": "OPTIONS"}},
        {"name": "origin", "present_match": True},
        {"name": "access-control-request-method", "present_match": True},
    ]
    return {"match": {"prefix": "/", "headers": headers}, "route": {"cluster": cluster}}


def _foreign_origin(origins: str) -> dict[str, Any]:
    """Reject changes by pages of other origins, which can send some requests without preflight."""
    methods = {"safe_regex": {"regex": "|".join(_CHANGING)}}
    headers = [
        {"name": "origin", "present_match": True},
        {
            "name": "origin",
            "string_match": {"safe_regex": {"regex": origins}},
            "invert_match": True,
        },
        {"name": ":method", "string_match": methods},
    ]
    return _refusal({"prefix": "/", "headers": headers}, 403)


def _refusal(match: dict[str, Any], status: int) -> dict[str, Any]:
    return {
        "match": match,
        "direct_response": {"status": status},
        "typed_per_filter_config": {transcoder.NAME: _DISABLED},
    }


def _retries(on: str) -> dict[str, Any]:
    return {
        "retry_on": on,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host."
                    "previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": "3",
    }


def _no_compression() -> dict[str, Any]:
    return {"@type": f"{_FILTERS}compressor.v3.CompressorPerRoute", "disabled": True}


def _cors(origins: str) -> dict[str, Any]:
    return {
        "@type": f"{_FILTERS}cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"safe_regex": {"regex": origins}}],
        "allow_methods": ", ".join(("GET", *_CHANGING)),
        "allow_headers": "accept, authorization, content-type, last-event-id, x-csrf-token, "
        "x-request-id",
        "expose_headers": "etag, ratelimit-limit, ratelimit-remaining, ratelimit-reset, "
        "retry-after, x-request-id",
        "max_age": "600",
    }


def _seconds(value: float) -> str:
    return f"{value:g}s"
