"""Services behind Envoy: real gRPC servers with the contracts' stubs."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, timestamp_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from coinmesh_contracts.collector.v1 import collector_service_pb2 as collector
from coinmesh_contracts.collector.v1 import collector_service_pb2_grpc as collector_grpc
from coinmesh_contracts.market.v1 import (
    bar_pb2,
    book_pb2,
    indicator_pb2,
    instrument_pb2,
    leaderboard_pb2,
    stream_pb2,
    ticker_pb2,
    trade_pb2,
)
from coinmesh_contracts.market.v1 import market_service_pb2 as market
from coinmesh_contracts.market.v1 import market_service_pb2_grpc as market_grpc
from coinmesh_contracts.query.v1 import collector_directory_service_pb2 as directory
from coinmesh_contracts.query.v1 import collector_directory_service_pb2_grpc as directory_grpc
from coinmesh_contracts.query.v1 import event_service_pb2_grpc as events_grpc
from coinmesh_contracts.session.v1 import session_service_pb2 as session
from coinmesh_contracts.session.v1 import session_service_pb2_grpc as session_grpc
from meshkit.settings import Address

WAIT_SECONDS = 120
GOLDEN_TIME = timestamp_pb2.Timestamp(seconds=1_723_161_255, nanos=342_000_000)


def status(code: int, reason: str, message: str) -> status_pb2.Status:
    """Return an error in the services' format."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="coinmesh"))
    return status_pb2.Status(code=code, message=message, details=[detail])


ERRORS = {
    "binance.UNKNOWN": status(code_pb2.NOT_FOUND, "UNKNOWN_INSTRUMENT", "no such instrument"),
    "binance.BUSY": status(code_pb2.RESOURCE_EXHAUSTED, "QUOTA", "too many requests"),
    "binance.BAD": status(code_pb2.INVALID_ARGUMENT, "BAD_INSTRUMENT", "not a name"),
    "binance.BROKEN": status(code_pb2.INTERNAL, "INTERNAL", "failed, see the log"),
}


def bar(index: int) -> bar_pb2.Bar:
    """Return a bar with values that depend on the index; the first has no trades."""
    return bar_pb2.Bar(
        start_time=timestamp_pb2.Timestamp(seconds=1_723_161_240 + 60 * index),
        open="61837.63000000",
        close=f"{61837 + index}.64000000",
        volume="0.02000000",
        trade_count=index,
        final=index > 0,
        provenance=bar_pb2.Provenance(
            layer=bar_pb2.LAYER_STREAM, run="r" * 40, last_trade_id=3_735_683_259
        ),
    )


class Market(market_grpc.MarketServiceServicer):
    """Record requests, and return errors for certain instruments."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.sessions: Any = None
        self.asked: list[object] = []
        self.failures = 0

    def ListInstruments(self, request, context):
        self.asked.append(request)
        return market.ListInstrumentsResponse(
            instruments=[instrument_pb2.Instrument(name="binance.BTC-USDT", venue=self.replica)]
        )

    def GetInstrument(self, request, context):
        self.asked.append(request)
        if error := ERRORS.get(request.instrument):
            context.abort_with_status(rpc_status.to_status(error))
        if request.instrument == "binance.SLOW":
            wait_until_left(context)
        if request.instrument == "binance.FLAKY" and self.failures:
            self.failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        return instrument_pb2.Instrument(name=request.instrument)

    def GetTicker(self, request, context):
        return ticker_pb2.Ticker(instrument=request.instrument, event_time=GOLDEN_TIME)

    def ListTickers(self, request, context):
        return market.ListTickersResponse(next_page_token=f"{request.page_size}")

    def ListBars(self, request, context):
        self.asked.append(request)
        return market.ListBarsResponse(bars=[bar(index) for index in range(request.page_size)])

    def ViewBars(self, request, context):
        self.asked.append(request)
        context.send_initial_metadata(
            (("cache-control", "public, max-age=60"), ("etag", '"7"'))
            if request.end_time.seconds
            else ()
        )
        closes = ["61837.64000000"] * max(1, request.page_size)
        document = {"instrument": request.instrument, "close": closes}
        return httpbody_pb2.HttpBody(
            content_type="application/json", data=json.dumps(document).encode()
        )

    def ListTrades(self, request, context):
        trade = trade_pb2.Trade(trade_id=3_735_683_259, event_time=GOLDEN_TIME, price="1.50")
        return market.ListTradesResponse(trades=[trade])

    def GetBook(self, request, context):
        level = book_pb2.Level(price="0.00001234", size="1.00")
        return book_pb2.Book(
            instrument=request.instrument, last_update_id=1 << 63, bids=[level] * request.depth
        )

    def ListIndicators(self, request, context):
        value = indicator_pb2.IndicatorValue(indicator=request.indicator, period=20)
        return market.ListIndicatorsResponse(indicators=[value])

    def GetLeaderboard(self, request, context):
        return leaderboard_pb2.Leaderboard(name=request.leaderboard)

    def StreamMarket(self, request, context):
        self.asked.append(request)
        if not request.instruments:
            context.abort_with_status(
                rpc_status.to_status(
                    status(code_pb2.INVALID_ARGUMENT, "NO_INSTRUMENT", "name an instrument")
                )
            )
        for instrument in request.instruments:
            event = stream_pb2.MarketEvent(
                instrument=instrument, trade=trade_pb2.Trade(trade_id=1, price="1.0")
            )
            yield market_stream(batch=stream_pb2.MarketBatch(events=[event]))
        match request.resume_token:
            case "in-band":
                error = status(code_pb2.UNAVAILABLE, "KAFKA_DOWN", "Kafka does not answer")
                yield market_stream(error=error)
            case "open":
                wait_until_left(context)


def market_stream(**event: object) -> stream_pb2.StreamMarketResponse:
    return stream_pb2.StreamMarketResponse(resume_token="t", **event)


class Directory(directory_grpc.CollectorDirectoryServiceServicer):
    def ListCollectors(self, request, context):
        return directory.ListCollectorsResponse(collectors=[directory.Collector(name="binance")])


class Events(events_grpc.EventServiceServicer):
    def StreamEvents(self, request, context):
        for number in range(request.limit):
            line = json.dumps({"timestamp": number, "symbol": request.instrument})
            yield httpbody_pb2.HttpBody(
                content_type="application/x-ndjson", data=f"{line}\n".encode() * 2
            )


class Sessions(session_grpc.SessionServiceServicer):
    """Record the metadata of the last call."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def CreateSession(self, request, context):
        self.told = dict(context.invocation_metadata())
        cookies = (("set-cookie", "a=1; Secure"), ("set-cookie", "b=2; Secure"))
        context.send_initial_metadata(cookies)
        return session.Session(token="t")

    def GetSession(self, request, context):
        self.told = dict(context.invocation_metadata())
        return session.Session(user=self.told.get("x-coinmesh-user", ""))

    def DeleteSession(self, request, context):
        return session.DeleteSessionResponse()


class Collector(collector_grpc.CollectorServiceServicer):
    def __init__(self) -> None:
        self.asked: list[object] = []

    def GetStatus(self, request, context):
        return collector.CollectorStatus(collector=request.collector, weight_limit=6000)

    def ListSubscriptions(self, request, context):
        return collector.ListSubscriptionsResponse()

    def AddSubscription(self, request, context):
        self.asked.append(request)
        if request.subscription.instrument == "binance.FLAKY":
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        return request.subscription

    def RemoveSubscription(self, request, context):
        return collector.RemoveSubscriptionResponse()

    def Backfill(self, request, context):
        operation = operations_pb2.Operation(name="backfills/1")
        operation.metadata.Pack(collector.BackfillMetadata(next_id=request.ids.first))
        return operation

    def GetBackfill(self, request, context):
        return operations_pb2.Operation(name=f"backfills/{request.backfill}", done=True)

    def RetryGap(self, request, context):
        return collector.RetryGapResponse()

    def Drain(self, request, context):
        return collector.DrainResponse()


def wait_until_left(context: grpc.ServicerContext) -> None:
    """Wait until the caller has disconnected."""
    left = Event()
    if context.add_callback(left.set):
        assert left.wait(WAIT_SECONDS), "the caller never left"


@dataclass
class Backend:
    """One replica of a service."""

    address: Address
    server: grpc.Server
    double: Any = None

    def stop(self) -> None:
        self.server.stop(0).wait()


def serve(
    add: Mapping[str, Callable[[grpc.Server], object]],
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
) -> Backend:
    """Start a gRPC server with health and reflection."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", 64 << 20)]
    server = grpc.server(ThreadPoolExecutor(16), options=options)
    for register in add.values():
        register(server)
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*add, reflection.SERVICE_NAME], server)
    address = f"127.0.0.1:{port}"
    if credentials is None:
        bound = server.add_insecure_port(address)
    else:
        bound = server.add_secure_port(address, credentials)
    server.start()
    return Backend(Address("127.0.0.1", bound), server)


def serve_gateway(
    replica: str, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Backend:
    double = Market(replica)
    double.sessions = Sessions()
    backend = serve(
        {
            "coinmesh.market.v1.MarketService": lambda server: (
                market_grpc.add_MarketServiceServicer_to_server(double, server)
            ),
            "coinmesh.query.v1.CollectorDirectoryService": lambda server: (
                directory_grpc.add_CollectorDirectoryServiceServicer_to_server(Directory(), server)
            ),
            "coinmesh.query.v1.EventService": lambda server: (
                events_grpc.add_EventServiceServicer_to_server(Events(), server)
            ),
            "coinmesh.session.v1.SessionService": lambda server: (
                session_grpc.add_SessionServiceServicer_to_server(double.sessions, server)
            ),
        },
        port,
        credentials,
    )
    backend.double = double
    return backend


def serve_collector(credentials: grpc.ServerCredentials | None = None) -> Backend:
    double = Collector()
    backend = serve(
        {
            "coinmesh.collector.v1.CollectorService": lambda server: (
                collector_grpc.add_CollectorServiceServicer_to_server(double, server)
            )
        },
        credentials=credentials,
    )
    backend.double = double
    return backend


@pytest.fixture(scope="session")
def start_gateway() -> Callable[..., Backend]:
    """Return `start_gateway(name, port=0, credentials=None)`: a replica of query-gateway."""
    return serve_gateway


@pytest.fixture(scope="session")
def start_collector() -> Callable[..., Backend]:
    """Return `start_collector(credentials=None)`: a collector."""
    return serve_collector


@pytest.fixture(scope="session")
def envoy(start_envoy: Callable[..., Any]) -> Iterator[Any]:
    """Yield an Envoy in front of one replica of each service."""
    backends = {"query-gateway": [serve_gateway("1")], "collector-binance": [serve_collector()]}
    yield start_envoy(backends)
    for replicas in backends.values():
        for backend in replicas:
            backend.stop()
