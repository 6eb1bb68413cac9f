"""What Envoy counts of users' requests: the objective of availability is made of it."""

import re
from collections import Counter
from typing import Any

import grpc
import pytest

from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc

pytestmark = pytest.mark.component

BROKEN, UNKNOWN = "binance.BROKEN", "binance.UNKNOWN"
SAMPLE = re.compile(r"^envoy_(http_downstream_rq_xx|cluster_grpc){(.*)} (\d+)$", re.MULTILINE)


def counted(envoy: Any) -> Counter[str]:
    """Public requests by class (`5xx`) and gRPC calls by status (`grpc 14`)."""
    found: Counter[str] = Counter()
    text = envoy.admin.get("/stats/prometheus?usedonly").text
    for name, labels, value in SAMPLE.findall(text):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if name == "cluster_grpc":
            found[f"grpc {told['grpc_status']}"] += int(value)
        elif told["envoy_http_conn_manager_prefix"] == "public":
            found[f"{told['envoy_response_code_class']}xx"] += int(value)
    return found


def ask(envoy: Any, instrument: str, code: grpc.StatusCode) -> None:
    """An instrument by gRPC, whose status must be this one."""
    with grpc.insecure_channel(str(envoy.address)) as channel:
        stub = market_grpc.MarketServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetInstrument(market.GetInstrumentRequest(instrument=instrument))
        assert caught.value.code() is code


def test_faults_are_told_from_what_was_asked_wrongly(envoy: Any) -> None:
    before = counted(envoy)
    assert envoy.rest.get(f"/v1/instruments/{BROKEN}").status_code == 500
    assert envoy.rest.get(f"/v1/instruments/{UNKNOWN}").status_code == 404
    ask(envoy, BROKEN, grpc.StatusCode.INTERNAL)
    ask(envoy, UNKNOWN, grpc.StatusCode.NOT_FOUND)
    expected = {"5xx": 1, "4xx": 1, "2xx": 2, "grpc 13": 1, "grpc 5": 1}
    assert counted(envoy) - before == expected


def test_health_checks_do_not_count(envoy: Any) -> None:
    before = counted(envoy)
    assert envoy.rest.get("/healthz").status_code == 200
    assert counted(envoy) == before


def test_what_reaches_no_service_is_a_fault(
    start_envoy: Any, start_gateway: Any, start_collector: Any
) -> None:
    gateway, collector = start_gateway("1"), start_collector()
    envoy = start_envoy({"query-gateway": [gateway], "collector-binance": [collector]})
    gateway.stop()
    assert envoy.rest.get(f"/v1/instruments/{UNKNOWN}").status_code == 503
    ask(envoy, UNKNOWN, grpc.StatusCode.UNAVAILABLE)
    collector.stop()
    assert counted(envoy) == {"5xx": 1, "2xx": 1, "grpc 14": 1}
