"""gRPC through Envoy: the same services, with health and reflection."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

from coinmesh_contracts.collector.v1 import collector_service_pb2 as collector
from coinmesh_contracts.collector.v1 import collector_service_pb2_grpc as collector_grpc
from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc

pytestmark = pytest.mark.component

MARKET = "coinmesh.market.v1.MarketService"
COLLECTOR = "coinmesh.collector.v1.CollectorService"


@pytest.fixture
def channel(envoy: Any, request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    """A channel to Envoy; its parameter is the authority."""
    authority = getattr(request, "param", None)
    options = [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(str(envoy.address), options) as opened:
        yield opened


@pytest.mark.parametrize(
    ("channel", "service"),
    [
        ("query-gateway.coinmesh", MARKET),
        ("query-gateway.coinmesh:443", MARKET),
        ("collector-binance.coinmesh", COLLECTOR),
        (None, MARKET),
    ],
    indirect=["channel"],
)
def test_health_and_reflection_are_those_of_the_authority(
    channel: grpc.Channel, service: str
) -> None:
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert service in ProtoReflectionDescriptorDatabase(channel).get_services()


@pytest.mark.parametrize("channel", [None, "query-gateway.coinmesh"], indirect=True)
def test_a_client_reaches_a_service(channel: grpc.Channel) -> None:
    stub = market_grpc.MarketServiceStub(channel)
    request = market.GetInstrumentRequest(instrument="binance.币安-USDT")
    assert stub.GetInstrument(request).name == "binance.币安-USDT"
    streamed = stub.StreamMarket(market.StreamMarketRequest(instruments=["a", "b"]))
    assert [each.batch.events[0].instrument for each in streamed] == ["a", "b"]


@pytest.mark.parametrize("channel", [None, "collector-binance.coinmesh"], indirect=True)
def test_a_client_reaches_a_collector(channel: grpc.Channel) -> None:
    stub = collector_grpc.CollectorServiceStub(channel)
    assert stub.GetStatus(collector.GetStatusRequest(collector="binance")).weight_limit == 6000


def test_errors_keep_their_details(channel: grpc.Channel) -> None:
    request = market.GetInstrumentRequest(instrument="binance.UNKNOWN")
    with pytest.raises(grpc.RpcError) as caught:
        market_grpc.MarketServiceStub(channel).GetInstrument(request)
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert info.reason == "UNKNOWN_INSTRUMENT"


def test_the_callers_deadline_holds(channel: grpc.Channel) -> None:
    request = market.GetInstrumentRequest(instrument="binance.SLOW")
    with pytest.raises(grpc.RpcError) as caught:
        market_grpc.MarketServiceStub(channel).GetInstrument(request, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_service_that_nobody_serves_is_unimplemented(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/coinmesh.nobody.v1.Service/Call")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "{" not in (caught.value.details() or "")


def test_a_large_reply_passes(channel: grpc.Channel) -> None:
    request = market.ListBarsRequest(instrument="a", page_size=10_000)
    reply = market_grpc.MarketServiceStub(channel).ListBars(request)
    assert len(reply.bars) == 10_000
    assert reply.ByteSize() > 1 << 20
