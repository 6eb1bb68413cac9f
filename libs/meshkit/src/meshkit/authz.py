"""Who may call what: a table made from the contracts' `coinmesh.auth.v1.rule`, default deny.

It applies only under TLS, where callers have names. Health and reflection are open to every peer
with a certificate. Envoy states the role of the user behind it in `x-coinmesh-role`; from
anybody else that header means nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import descriptor_pool

from coinmesh_contracts.auth.v1 import rule_pb2
from meshkit.calls import Call, Layer
from meshkit.errors import PermissionDenied, Unauthenticated
from meshkit.peer import caller, spiffe_id

ROLE_HEADER = "x-coinmesh-role"
EDGE = "envoy"
EXEMPT_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
_ROLES: dict[str, int] = {
    "viewer": rule_pb2.ROLE_VIEWER,
    "editor": rule_pb2.ROLE_EDITOR,
    "admin": rule_pb2.ROLE_ADMIN,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call one RPC."""

    callers: frozenset[str]
    role: int


def rules(
    services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None
) -> dict[str, Rule]:
    """The rules of all methods of `services`, by full method name; absent where there is none."""
    pool = pool or descriptor_pool.Default()
    table: dict[str, Rule] = {}
    for service in services:
        if service in EXEMPT_SERVICES:
            continue
        try:
            methods = pool.FindServiceByName(service).methods
        except KeyError:
            _log.warning("%s isn't in the contracts: nobody may call it", service)
            continue
        for method in methods:
            options = method.GetOptions()
            name = f"/{service}/{method.name}"
            if not options.HasExtension(rule_pb2.rule):
                _log.warning("%s has no rule: nobody may call it", name)
                continue
            rule = options.Extensions[rule_pb2.rule]
            table[name] = Rule(frozenset(rule.callers), rule.role)
    return table


def authz_layer(table: Mapping[str, Rule]) -> Layer:
    """The layer that lets through only what `table` allows."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        if call.service not in EXEMPT_SERVICES:
            _check(call, table.get(call.method))
        yield

    return layer


def _check(call: Call, rule: Rule | None) -> None:
    name = caller(call.context)
    if name is None:
        raise Unauthenticated(
            "UNKNOWN_PEER",
            "the client certificate names no service of this mesh",
            peer=spiffe_id(call.context) or "",
        )
    if rule is None or name not in rule.callers:
        _log.warning("denied", extra={"rpc": call.method, "caller": name})
        raise PermissionDenied(
            "CALLER_NOT_ALLOWED", f"{name} may not call {call.method}", caller=name
        )
    if name == EDGE:
        _check_role(call, rule)


def _check_role(call: Call, rule: Rule) -> None:
    stated = [
        value
        for key, value in cast(Any, call.context.invocation_metadata() or ())
        if key == ROLE_HEADER
    ]
    held = _ROLES.get(stated[0], 0) if len(stated) == 1 else 0
    if rule.role == 0 or held < rule.role:
        needed = next((name for name, role in _ROLES.items() if role == rule.role), "none")
        raise PermissionDenied(
            "ROLE_NOT_SUFFICIENT", f"{call.method} needs the role {needed}", role=needed
        )
