"""Envoy's public listener: the filters for every request, and its limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from coinmesh_gateway import quotas, transcoder, users, web
from coinmesh_gateway.errors import local_replies
from coinmesh_gateway.settings import Limits, Settings
from coinmesh_gateway.tls import Tls

_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_NETWORK = "type.googleapis.com/envoy.extensions.filters.network."
_COMPRESSION = "type.googleapis.com/envoy.extensions.compression."
_LINGER_S = 3


def listener(
    settings: Settings,
    virtual_hosts: Sequence[Mapping[str, Any]],
    transcoding: Mapping[str, Any],
    tls: Tls | None,
) -> dict[str, Any]:
    """Return the public listener."""
    manager = _connection_manager(settings, virtual_hosts, transcoding)
    if tls is not None:
        manager["common_http_protocol_options"] |= tls.connection()
    chain: dict[str, Any] = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    if tls is not None:
        chain["transport_socket"] = tls.downstream()
    host, port = settings.listen
    return {
        "name": "public",
        "address": {"socket_address": {"address": host, "port_value": port}},
        # Another process on the same port is an error; the port must not be shared.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": settings.limits.request_bytes,
        "filter_chains": [chain],
    }


def _connection_manager(
    settings: Settings,
    virtual_hosts: Sequence[Mapping[str, Any]],
    transcoding: Mapping[str, Any],
) -> dict[str, Any]:
    limits = settings.limits
    return {
        "@type": f"{_NETWORK}http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "AUTO",
        "server_name": "coinmesh",
        "use_remote_address": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "max_request_headers_kb": limits.headers_kib,
        "request_headers_timeout": _seconds(limits.headers_seconds),
        "request_timeout": _seconds(limits.request_seconds),
        "stream_idle_timeout": _seconds(limits.silent_seconds),
        "early_header_mutation_extensions": users.no_spoofing(),
        "forward_client_cert_details": "SANITIZE",
        "common_http_protocol_options": {
            "idle_timeout": _seconds(limits.idle_seconds),
            "max_headers_count": limits.headers,
            # Some libraries would convert x_coinmesh_roles to x-coinmesh-roles.
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": limits.streams_per_connection,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1 << 20,
            # Detects clients that vanished without closing the connection.
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        "delayed_close_timeout": f"{_LINGER_S}s",
        "local_reply_config": local_replies(),
        "access_log": [_access_log()],
        **({"tracing": settings.tracing.connection_manager()} if settings.tracing else {}),
        "route_config": {
            "name": "public",
            "ignore_port_in_host_matching": True,
            "virtual_hosts": list(virtual_hosts),
        },
        "http_filters": _filters(settings, transcoding),
    }


def _filters(settings: Settings, transcoding: Mapping[str, Any]) -> list[dict[str, Any]]:
    limits = settings.limits
    # gRPC errors have HTTP status 200: the gRPC status is counted separately.
    counted = http_filter("grpc_stats", "grpc_stats.v3.FilterConfig", stats_for_all_methods=False)
    filters = [http_filter("cors", "cors.v3.Cors"), _health(), counted]
    if settings.vault is not None:
        filters += users.filters(settings.vault)
    if settings.web:
        filters.append(web.role_filter())
    if settings.ratelimit:
        filters.append(quotas.rate_limit_filter())
    # Of the encodings that a client accepts equally, the first in this order is used.
    filters += [_compressor(kind, limits) for kind in ("gzip", "brotli", "zstd")]
    # The transcoder forwards a body while reading it; this filter detects excessive length.
    filters.append(
        http_filter("buffer", "buffer.v3.Buffer", max_request_bytes=limits.request_bytes)
    )
    filters.append({"name": transcoder.NAME, "typed_config": dict(transcoding)})
    filters.append(http_filter("router", "router.v3.Router"))
    return filters


def http_filter(name: str, kind: str, **config: Any) -> dict[str, Any]:
    """Return one of Envoy's own filters, `kind` below envoy.extensions.filters.http."""
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_HTTP}{kind}", **config},
    }


def _seconds(value: float) -> str:
    return f"{value:g}s"


def _health() -> dict[str, Any]:
    path = {"name": ":path", "string_match": {"exact": "/healthz"}}
    return http_filter(
        "health_check", "health_check.v3.HealthCheck", pass_through_mode=False, headers=[path]
    )


def _compressor(kind: str, limits: Limits) -> dict[str, Any]:
    name = f"{_COMPRESSION}{kind}.compressor.v3.{kind.capitalize()}"
    response = {
        "common_config": {"min_content_length": limits.compressed_from_bytes},
        "remove_accept_encoding_header": False,
    }
    library = {"name": kind, "typed_config": {"@type": name, **_FAST[kind]}}
    return {
        "name": f"compressor_{kind}",
        **http_filter(
            "compressor",
            "compressor.v3.Compressor",
            compressor_library=library,
            response_direction_config=response,
        ),
    }


# Replies are compressed once and read once: prefer speed to size.
_FAST: dict[str, dict[str, Any]] = {
    "gzip": {"compression_level": "BEST_SPEED"},
    "brotli": {"quality": 3},
    "zstd": {"compression_level": 1},
}


def _access_log() -> dict[str, Any]:
    fields = {
        # The first fields are those of every log of the mesh (meshkit's log_schema.json).
        "ts": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "level": "INFO",
        "service": "envoy",
        "logger": "access",
        "message": "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE%",
        "trace_id": "%TRACE_ID%",
        "method": "%REQ(:METHOD)%",
        "authority": "%REQ(:AUTHORITY)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "grpcStatus": "%GRPC_STATUS(SNAKE_STRING)%",
        "cause": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "durationMs": "%DURATION%",
        "bytesReceived": "%BYTES_RECEIVED%",
        "bytesSent": "%BYTES_SENT%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "upstreamAddress": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "requestId": "%REQ(X-REQUEST-ID)%",
        "user": "%REQ(X-COINMESH-USER)%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"not_health_check_filter": {}},
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3."
            "StdoutAccessLog",
            "log_format": {
                "json_format": fields,
                "omit_empty_values": True,
            },
        },
    }
