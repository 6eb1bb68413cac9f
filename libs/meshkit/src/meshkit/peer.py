"""The calling service: the SPIFFE id in the peer's certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc.aio

from meshkit.tls import SERVICE_PREFIX


def spiffe_id(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Return the peer's `spiffe://…` id; None without a client certificate or with several ids.

    A certificate with more than one SPIFFE id is invalid (SPIFFE X.509-SVID §2).
    """
    attributes = cast(Mapping[str, list[bytes]], context.auth_context())
    found = {value.decode() for value in attributes.get("peer_spiffe_id", ())}
    return found.pop() if len(found) == 1 else None


def caller(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Return the calling service (`envoy`); None if the caller isn't a service of the mesh."""
    identity = spiffe_id(context)
    if identity is None or not identity.startswith(SERVICE_PREFIX):
        return None
    return identity.removeprefix(SERVICE_PREFIX)
