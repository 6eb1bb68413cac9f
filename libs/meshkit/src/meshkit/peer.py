"""Who calls: the SPIFFE id in the peer's certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc.aio

from meshkit.tls import SERVICE_PREFIX


def spiffe_id(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """The peer's `spiffe://…` id, None without a client certificate or with several ids.

    A certificate with more than one SPIFFE id is invalid (SPIFFE X.509-SVID §2) and names nobody.
    """
    attributes = cast(Mapping[str, list[bytes]], context.auth_context())
    found = {value.decode() for value in attributes.get("peer_spiffe_id", ())}
    return found.pop() if len(found) == 1 else None


def caller(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """The service that calls (`envoy`), None for anybody who isn't one of ours."""
    identity = spiffe_id(context)
    if identity is None or not identity.startswith(SERVICE_PREFIX):
        return None
    return identity.removeprefix(SERVICE_PREFIX)
