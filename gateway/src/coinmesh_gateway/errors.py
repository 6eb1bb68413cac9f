"""Bodies of the errors that Envoy makes itself: google.rpc.Status as JSON, like any service's.

Calls by gRPC keep Envoy's own grpc-status and grpc-message: a body would end up in the message.
"""

from dataclasses import dataclass
from typing import Any

from meshkit.cookies import CSRF_COOKIE, CSRF_HEADER

DOMAIN = "envoy.coinmesh"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
_OWN_WORDS = "%LOCAL_REPLY_BODY%"


@dataclass(frozen=True)
class EdgeError:
    """What one HTTP status of Envoy's own is told as.

    `code` is the google.rpc.Code, `message` the sentence for people (None: Envoy's words, which
    name the thing that is wrong); `flag`, Envoy's response flag, and `cause`, with which its words
    for what happened begin, tell causes of one status apart.
    """

    http: int
    code: int
    reason: str
    message: str | None = None
    flag: str | None = None
    cause: str | None = None


ERRORS = (
    EdgeError(400, 3, "INVALID_REQUEST"),
    EdgeError(
        401,
        16,
        "TOKEN_REQUIRED",
        f"{_OWN_WORDS}: send 'Authorization: Bearer <token>'; POST /v1/session or `coinmesh token` "
        "gives one",
    ),
    EdgeError(
        403,
        7,
        "CSRF_TOKEN_REQUIRED",
        f"a browser's request must repeat its cookie {CSRF_COOKIE} in the header {CSRF_HEADER}",
        cause="lua_response",
    ),
    EdgeError(403, 7, "TOKEN_NOT_ALLOWED", cause="jwt_authn_access_denied"),
    EdgeError(403, 7, "ORIGIN_NOT_ALLOWED", "pages of this origin may not change anything here"),
    EdgeError(404, 5, "UNKNOWN_PATH", "there is nothing at this path"),
    EdgeError(405, 12, "METHOD_NOT_ALLOWED", "this path has other methods: see the allow header"),
    EdgeError(408, 4, "REQUEST_TIMEOUT", "the request was not complete in time"),
    EdgeError(413, 3, "REQUEST_TOO_LARGE", "the request's body is larger than allowed"),
    EdgeError(429, 8, "TOO_MANY_REQUESTS", "too many requests; slow down and try again"),
    EdgeError(431, 3, "HEADERS_TOO_LARGE", "the request's headers are larger than allowed"),
    EdgeError(500, 13, "INTERNAL", "the reply cannot be passed on; ask for less at a time"),
    EdgeError(502, 14, "BACKEND_BROKEN", "the service behind this path gave no valid reply"),
    EdgeError(
        503, 14, "BACKEND_OVERLOADED", "the service behind this path has too much to do", "UO"
    ),
    EdgeError(
        503, 14, "BACKEND_UNAVAILABLE", "the service behind this path does not answer; try again"
    ),
    EdgeError(504, 4, "BACKEND_TIMEOUT", "the service behind this path did not answer in time"),
)
_OTHER = EdgeError(400, 2, "REFUSED")


def local_replies() -> dict[str, Any]:
    """Envoy's `local_reply_config`."""
    return {"mappers": [*(_mapper(error, "EQ") for error in ERRORS), _mapper(_OTHER, "GE")]}


def _mapper(error: EdgeError, operator: str) -> dict[str, Any]:
    comparison = {
        "op": operator,
        "value": {"default_value": error.http, "runtime_key": "coinmesh.unused"},
    }
    filters: list[dict[str, Any]] = [{"status_code_filter": {"comparison": comparison}}, _REST]
    if error.flag is not None:
        filters.append({"response_flag_filter": {"flags": [error.flag]}})
    if error.cause is not None:
        # The words of the cause are ours: there is no quote among them.
        told = f"response.code_details.startsWith('{error.cause}')"
        cel = {"@type": _CEL, "expression": told}
        filters.append({"extension_filter": {"name": "cause", "typed_config": cel}})
    return {
        "filter": {"and_filter": {"filters": filters}},
        "body_format_override": {
            "json_format": {
                "code": error.code,
                "message": error.message or _OWN_WORDS,
                "details": [
                    {
                        "@type": _ERROR_INFO,
                        "reason": error.reason,
                        "domain": DOMAIN,
                        "metadata": {"cause": "%RESPONSE_CODE_DETAILS%"},
                    }
                ],
            }
        },
    }


# A transcoded call has gRPC's content type by the time it fails; its first path tells it apart.
_REST = {
    "or_filter": {
        "filters": [
            {
                "header_filter": {
                    "header": {
                        "name": "content-type",
                        "string_match": {"prefix": "application/grpc"},
                        "treat_missing_header_as_empty": True,
                        "invert_match": True,
                    }
                }
            },
            {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True}}},
        ]
    }
}
