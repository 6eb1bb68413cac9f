"""Authorization of RPCs: a table built from the contracts' `coinmesh.auth.v1.rule`, default deny.

It applies only under TLS, where callers are authenticated. Health and reflection are open to every
peer with a certificate. Envoy sends the authenticated user in `x-coinmesh-user`, `-roles` and
`-tier`, from the claims of the validated JWT; these headers are ignored from any other caller.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf import descriptor_pool

from coinmesh_contracts.auth.v1 import rule_pb2
from meshkit.calls import Call, Context, Layer
from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.peer import caller, spiffe_id

USER_HEADER = "x-coinmesh-user"
# A JSON list in base64url: Envoy's form of a claim that is a list.
ROLES_HEADER = "x-coinmesh-roles"
TIER_HEADER = "x-coinmesh-tier"
EDGE = "envoy"
EXEMPT_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
_ROLES: dict[str, int] = {
    "viewer": rule_pb2.ROLE_VIEWER,
    "editor": rule_pb2.ROLE_EDITOR,
    "admin": rule_pb2.ROLE_ADMIN,
}
_log = logging.getLogger(__name__)

OnDenied = Callable[[Call, MeshError], None]
"""Called with every rejected call and the reason; must return at once and must not raise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The callers and the role allowed for one RPC."""

    callers: frozenset[str]
    role: int


@dataclass(frozen=True, slots=True)
class User:
    """A user authenticated by Envoy: name, roles and quota tier."""

    name: str
    roles: tuple[str, ...]
    tier: str


def rules(
    services: Iterable[str], pool: descriptor_pool.DescriptorPool | None = None
) -> dict[str, Rule]:
    """Return the rules of all methods of `services` by full method name."""
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


def authz_layer(table: Mapping[str, Rule], on_denied: Sequence[OnDenied] = ()) -> Layer:
    """Return the layer that rejects calls that `table` does not allow."""

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        if call.service not in EXEMPT_SERVICES:
            try:
                _check(call, table.get(call.method))
            except MeshError as denial:
                for report in on_denied:
                    report(call, denial)
                raise
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
    if rule.role == rule_pb2.ROLE_ANYONE:
        return
    found = user(call.context)
    held = max((_ROLES.get(role, 0) for role in found.roles), default=0) if found else 0
    if rule.role == rule_pb2.ROLE_UNSPECIFIED or held < rule.role:
        needed = next((name for name, role in _ROLES.items() if role == rule.role), "none")
        raise PermissionDenied(
            "ROLE_NOT_SUFFICIENT", f"{call.method} needs the role {needed}", role=needed
        )


def user(context: Context) -> User | None:
    """Return the user for whom Envoy calls; None if the caller isn't Envoy or sends no user."""
    if caller(context) != EDGE:
        return None
    stated: dict[str, str] = {}
    for key, value in cast(Any, context.invocation_metadata() or ()):
        if (
            key in (USER_HEADER, ROLES_HEADER, TIER_HEADER)
            and stated.setdefault(key, value) != value
        ):
            return None
    if USER_HEADER not in stated:
        return None
    roles = _roles(stated.get(ROLES_HEADER, ""))
    return User(stated[USER_HEADER], roles, stated.get(TIER_HEADER, ""))


def stated(user: User) -> tuple[tuple[str, str], ...]:
    """Return the headers in which Envoy sends a user; `user` reads them."""
    held = base64.urlsafe_b64encode(json.dumps(user.roles).encode()).decode().rstrip("=")
    return ((USER_HEADER, user.name), (ROLES_HEADER, held), (TIER_HEADER, user.tier))


def _roles(header: str) -> tuple[str, ...]:
    try:
        found: object = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError):
        return ()
    roles = cast(list[object], found) if isinstance(found, list) else []
    return tuple(role for role in roles if isinstance(role, str))
