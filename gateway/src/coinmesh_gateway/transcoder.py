"""The filter that transcodes between REST and gRPC."""

import base64
from collections.abc import Iterable
from typing import Any

from coinmesh_gateway.settings import Limits

NAME = "envoy.filters.http.grpc_json_transcoder"
_TYPE = "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3."


def transcoder(
    descriptor_set: bytes, services: Iterable[str], limits: Limits, *, sse: bool = False
) -> dict[str, Any]:
    """Return the filter's configuration; streams are JSON lines, or server-sent events with `sse`.

    JSON is proto3's: lowerCamelCase names, 64-bit integers as strings. Fields at their default are
    printed too, e.g. `"final": false`. Unknown query parameters are rejected.
    """
    return {
        "@type": f"{_TYPE}GrpcJsonTranscoder",
        "proto_descriptor_bin": base64.b64encode(descriptor_set).decode(),
        "services": sorted(services),
        "print_options": {
            "always_print_primitive_fields": True,
            "stream_sse_style_delimited" if sse else "stream_newline_delimited": True,
        },
        # The route selected by the REST path stays: several backends may serve one gRPC service.
        "match_incoming_request_route": True,
        # Errors keep their details, whose types are in the descriptor set.
        "convert_grpc_status": True,
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
        },
        "max_request_body_size": limits.request_bytes,
        "max_response_body_size": limits.response_bytes,
    }
