"""Who may call what, by the rules of the contract and the certificates of callers."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tls_harness import (
    GARBLED,
    MARKET,
    REQUEST,
    TWICE,
    VIEWER,
    Authority,
    client,
    failure,
    server,
    stated,
    stub,
    target,
)

from coinmesh_contracts.market.v1 import market_service_pb2 as market
from meshkit.authz import rules
from meshkit.calls import Call
from meshkit.errors import MeshError, error_info
from meshkit.resources import Resource
from meshkit.tls import (
    channel,
)


def test_every_rpc_of_the_contract_has_a_rule():
    service = market.DESCRIPTOR.services_by_name["MarketService"]
    table = rules([service.full_name])
    assert set(table) == {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert all(rule.callers for rule in table.values())


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("alerting", VIEWER), ("envoy", VIEWER), ("envoy", stated("viewer", "admin"))],
)
async def test_the_contract_lets_its_callers_in(
    service: Any, authority: Authority, name: str, metadata: tuple[tuple[str, str], ...]
):
    settings = server(authority.issue("query-gateway"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), client(authority.issue(name))) as to_it,
    ):
        answer = await stub(to_it).GetInstrument(REQUEST, metadata=metadata)
        assert answer.name == name
        # Only Envoy's word for a user counts.
        assert answer.venue == ("ann" if name == "envoy" else "")


@pytest.mark.parametrize(
    ("name", "metadata", "reason"),
    [
        ("envoy", (), "ROLE_NOT_SUFFICIENT"),
        ("envoy", stated("root"), "ROLE_NOT_SUFFICIENT"),
        ("envoy", TWICE, "ROLE_NOT_SUFFICIENT"),
        ("envoy", GARBLED, "ROLE_NOT_SUFFICIENT"),
        ("envoy", stated("viewer")[1:], "ROLE_NOT_SUFFICIENT"),
        ("intruder", stated("admin"), "CALLER_NOT_ALLOWED"),
        ("query-gateway", VIEWER, "CALLER_NOT_ALLOWED"),
    ],
)
async def test_everybody_else_is_denied_but_for_health(
    service: Any,
    authority: Authority,
    name: str,
    metadata: tuple[tuple[str, str], ...],
    reason: str,
):
    settings = server(authority.issue("query-gateway"))
    told: list[tuple[str, str]] = []

    class Denials(Resource):
        def on_denied(self, call: Call, denial: MeshError) -> None:
            told.append((call.name, denial.reason))

    async with service(settings=settings, servicers=MARKET, resources=[Denials()]) as started:
        peer = client(authority.issue(name, directory="peer"))
        async with channel(target(started), peer) as to_it:
            error = await failure(stub(to_it).GetInstrument(REQUEST, metadata=metadata))
            assert told == [("GetInstrument", reason)]
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error_info(error).reason == reason
            check = health_pb2_grpc.HealthStub(to_it).Check
            await check(health_pb2.HealthCheckRequest())


async def test_a_certificate_of_another_trust_domain_is_nobody(service: Any, authority: Authority):
    settings = server(authority.issue("query-gateway"))
    stranger = client(authority.issue("envoy", directory="stranger", domain="other.example"))
    async with (
        service(settings=settings, servicers=MARKET) as started,
        channel(target(started), stranger) as to_it,
    ):
        error = await failure(stub(to_it).GetInstrument(REQUEST, metadata=VIEWER))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_rpc_without_a_rule_is_denied(service: Any, authority: Authority):
    async def unary(request: bytes, context: object) -> bytes:
        return b"open"

    settings = server(authority.issue("query-gateway"))
    async with service(unary=unary, settings=settings) as started:
        error = await failure(started.unary())
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
