"""Each RPC of the running services knows who may call it: every identity tries every one."""

from collections.abc import Iterator
from typing import Any

import declared
import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from coinmesh_access import table
from coinmesh_contracts.auth.v1.rule_pb2 import ROLE_ANYONE
from coinmesh_local import listeners
from meshkit.authz import EDGE, EXEMPT_SERVICES, rules
from meshkit.errors import error_info

pytestmark = pytest.mark.e2e


def reasons(channel: grpc.Channel, methods: list[str]) -> Iterator[tuple[str, str | None]]:
    """Why each call of nobody in particular failed; None when it didn't."""
    for method in methods:
        try:
            channel.unary_unary(method)(b"", timeout=60)
        except grpc.RpcError as error:
            info = error_info(error)
            yield method, info.reason if info else str(error)
        else:
            yield method, None


@pytest.mark.parametrize("component", declared.SERVED)
def test_only_the_callers_of_an_rpcs_rule_get_in(last_run: Any, component: str) -> None:
    mesh = last_run.mesh
    port = next(
        each.port
        for each in listeners.listeners(mesh)
        if (each.component, each.name) == (component, "grpc")
    )

    def connect(identity: str) -> grpc.Channel:
        return grpc.secure_channel(f"localhost:{port}", mesh.grpc_credentials(identity))

    with connect("deploy") as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services - EXEMPT_SERVICES == set(declared.SERVED[component])
    apis = declared.apis()
    known = rules(services - EXEMPT_SERVICES)
    assert len(known) == sum(len(apis[api].method) for api in declared.SERVED[component])
    for identity in table.load().services:
        allowed = {m for m, rule in known.items() if identity in rule.callers}
        with connect(identity) as channel:
            for method, reason in reasons(channel, sorted(known.keys() - allowed)):
                assert reason == "CALLER_NOT_ALLOWED", (identity, method)
            for method, reason in reasons(channel, sorted(allowed)):
                # Without a user Envoy's calls end at the role, where one is wanted.
                wanted = identity == EDGE and known[method].role != ROLE_ANYONE
                assert (reason == "ROLE_NOT_SUFFICIENT") == wanted, (identity, method)
