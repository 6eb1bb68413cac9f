"""What all APIs have in common: every RPC says how it is called over HTTP and by whom."""

import re

import pytest
from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from coinmesh_contracts.auth.v1 import rule_pb2
from coinmesh_contracts.sources import descriptor_set

RPCS = {
    f"{file.package}.{service.name}.{method.name}": method
    for file in FileDescriptorSet.FromString(descriptor_set()).file
    for service in file.service
    for method in service.method
    if file.package.startswith("coinmesh.")
}
READING = ("Get", "List", "View", "Stream")


def http(method: MethodDescriptorProto) -> HttpRule:
    return method.options.Extensions[annotations_pb2.http]


def path(rule: HttpRule) -> str:
    return str(getattr(rule, rule.WhichOneof("pattern") or "get"))


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_has_a_path_of_the_api(name: str) -> None:
    assert RPCS[name].options.HasExtension(annotations_pb2.http), "no google.api.http"
    assert re.fullmatch(r"/v1/[A-Za-z0-9/{}_:.=*]+", path(http(RPCS[name])))


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_says_who_may_call_it(name: str) -> None:
    assert RPCS[name].options.HasExtension(rule_pb2.rule), "no coinmesh.auth.v1.rule"
    rule = RPCS[name].options.Extensions[rule_pb2.rule]
    assert rule.callers
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", caller) for caller in rule.callers)
    # Whoever lets users in says what they must be allowed to do.
    assert ("envoy" in rule.callers) == (rule.role != rule_pb2.ROLE_UNSPECIFIED)


def test_only_what_gives_or_takes_tokens_needs_none() -> None:
    """Health and reflection are no RPCs of ours: every peer with a certificate may call them, and
    users only with a token (gateway/tests/test_users.py)."""
    anyone = {
        name
        for name, method in RPCS.items()
        if method.options.Extensions[rule_pb2.rule].role == rule_pb2.ROLE_ANYONE
    }
    service = "coinmesh.session.v1.SessionService"
    assert anyone == {f"{service}.CreateSession", f"{service}.DeleteSession"}


@pytest.mark.parametrize("name", RPCS)
def test_reading_is_a_get_and_needs_no_more_than_a_viewer(name: str) -> None:
    reads = name.rpartition(".")[2].startswith(READING)
    assert (http(RPCS[name]).WhichOneof("pattern") == "get") is reads
    rule = RPCS[name].options.Extensions[rule_pb2.rule]
    assert (rule.role == rule_pb2.ROLE_VIEWER) is reads


def test_no_two_rpcs_have_one_path() -> None:
    paths = [(http(m).WhichOneof("pattern"), path(http(m))) for m in RPCS.values()]
    assert len(paths) == len(set(paths))


def test_requests_and_replies_are_the_rpcs_own() -> None:
    """AIP-131 and following: XRequest for X; a stream of messages is XResponse."""
    for name, method in RPCS.items():
        short = name.rpartition(".")[2]
        assert method.input_type.rpartition(".")[2] == f"{short}Request"
