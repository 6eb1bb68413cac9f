"""The contracts' HTTP bindings: the `google.api.http` option of each RPC.

Source of the rules: google/api/http.proto.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from coinmesh_contracts.auth.v1 import rule_pb2
from coinmesh_gateway.catalogue import CatalogueError
from meshkit.authz import EDGE

_VARIABLE = re.compile(r"\{(?P<name>[a-z_.]+)(?:=(?P<pattern>[^}]+))?\}")
_HTTP_BODY = ".google.api.HttpBody"


@dataclass(frozen=True)
class Binding:
    """An HTTP method and path by which an RPC can be called.

    Attributes:
        rpc: The RPC's full name, e.g. "coinmesh.market.v1.MarketService.ListBars".
        method: The HTTP method.
        template: The path template, e.g. "/v1/instruments/{instrument}/bars".
        streams: Whether the RPC returns a stream.
        raw: Whether the service renders the body itself (google.api.HttpBody).
        open: Whether it requires no token.
    """

    rpc: str
    method: str
    template: str
    streams: bool
    raw: bool
    open: bool = False

    def path_regex(self, bind: Mapping[str, str]) -> str:
        """Return the RE2 pattern of its paths, with the variables in `bind` at their value."""
        pattern, end = "", 0
        for match in _VARIABLE.finditer(self.template):
            pattern += re.escape(self.template[end : match.start()])
            bound = bind.get(match["name"])
            pattern += _segments(match["pattern"] or "*") if bound is None else re.escape(bound)
            end = match.end()
        return pattern + re.escape(self.template[end:])

    @property
    def variables(self) -> tuple[str, ...]:
        """Return the path's variables, in order."""
        return tuple(match["name"] for match in _VARIABLE.finditer(self.template))


def _segments(pattern: str) -> str:
    parts = {"*": "[^/]+", "**": ".+"}
    return "/".join(parts.get(part, re.escape(part)) for part in pattern.split("/"))


def bindings(descriptor_set: bytes, services: Iterable[str]) -> list[Binding]:
    """Return all bindings of user-callable RPCs of gRPC services, more specific paths first.

    Raises:
        CatalogueError: A service is not in the descriptor set.
    """
    found: dict[str, list[Binding]] = {}
    for file in FileDescriptorSet.FromString(descriptor_set).file:
        for service in file.service:
            name = f"{file.package}.{service.name}"
            found[name] = [
                binding for method in service.method for binding in _of_method(name, method)
            ]
    wanted = sorted(set(services))
    if missing := [name for name in wanted if name not in found]:
        raise CatalogueError(f"the contracts have no gRPC service {', '.join(missing)}")
    return sorted((b for name in wanted for b in found[name]), key=_specific_first)


def _specific_first(binding: Binding) -> tuple[int, int, str, str]:
    # A verb after a variable ({collector}:drain) would otherwise match as part of its value.
    has_verb = ":" in binding.template.rpartition("/")[2]
    return (0 if has_verb else 1, len(binding.variables), binding.template, binding.method)


def _of_method(service: str, method: MethodDescriptorProto) -> Iterator[Binding]:
    http: Any = annotations_pb2.http
    caller: Any = rule_pb2.rule
    allowed: rule_pb2.Rule = method.options.Extensions[caller]
    if not method.options.HasExtension(http) or EDGE not in allowed.callers:
        return
    rule: HttpRule = method.options.Extensions[http]
    for each in (rule, *rule.additional_bindings):
        verb, template = _verb(each)
        yield Binding(
            rpc=f"{service}.{method.name}",
            method=verb,
            template=template,
            streams=method.server_streaming,
            raw=method.output_type == _HTTP_BODY,
            open=allowed.role == rule_pb2.ROLE_ANYONE,
        )


def _verb(rule: HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise CatalogueError("an RPC's google.api.http names no path")
    if kind == "custom":
        return rule.custom.kind, rule.custom.path
    return kind.upper(), str(getattr(rule, kind))
