"""The query-gateway's process: settings in, objects wired, served."""

from __future__ import annotations

import asyncio

from coinmesh_contracts.query.v1.collector_directory_service_pb2_grpc import (
    add_CollectorDirectoryServiceServicer_to_server,
)
from coinmesh_contracts.query.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from meshkit.metrics import Metrics
from meshkit.registry import Registry
from meshkit.service import configure, run, serve
from query_gateway import feed
from query_gateway.bootstrap import Bootstrap
from query_gateway.cache import Cache
from query_gateway.cassandra_session import CassandraSession
from query_gateway.charts import Charts
from query_gateway.collector_directory import CollectorDirectory
from query_gateway.event_service import EventService
from query_gateway.history import History
from query_gateway.hub import Hub
from query_gateway.latest import LatestWriter
from query_gateway.listings import Listings
from query_gateway.live_view import LiveView
from query_gateway.market_service import MarketService
from query_gateway.market_stream import MarketStream, add_market_service
from query_gateway.settings import GatewaySettings, parse_collectors
from query_gateway.stored_rows import statements


async def gateway(settings: GatewaySettings) -> int:
    """Runs the service; its exit status."""
    metrics = Metrics()
    decoder = await feed.decoder(Registry(settings), metrics)
    session = CassandraSession(settings, statements(), metrics)
    cache = Cache(settings, metrics)
    view = LiveView(settings.kept_trades)
    hub = Hub(settings.kept_events, settings.reader_queue)
    latest = LatestWriter(cache, view)
    live = feed.Feed(settings, decoder, view, hub, note=latest.note, metrics=metrics)
    stored = History(session, view.newest_ms)
    bootstrap = Bootstrap(view, stored, cache, (live.caught_up, session.connected))
    collectors = CollectorDirectory(settings, parse_collectors(settings.collectors))
    market = MarketService(
        view,
        Listings(stored, view),
        MarketStream(hub),
        charts=Charts(cache, settings.chart_ttl_seconds),
        cache=cache,
        ready=bootstrap.done.is_set,
        live=lambda: live.connected and live.caught_up.is_set(),
    )
    events = EventService(settings, decoder, lambda: live.connected)
    metrics.read_gauge(
        "stream_readers", "Readers of the live stream", (), lambda: {(): hub.readers}
    )
    metrics.read_gauge("book_holes", "Holes met in book deltas", (), lambda: {(): view.book_holes})

    return await serve(
        settings,
        servicers=[
            (add_market_service, market),
            (add_EventServiceServicer_to_server, events),
            (add_CollectorDirectoryServiceServicer_to_server, collectors),
        ],
        background=[session.connect, live.run, live.probe, bootstrap.run, latest.run],
        on_drain=[collectors.close, session.close, cache.close],
        readiness={"view": lambda: asyncio.sleep(0, bootstrap.done.is_set())},
        metrics=metrics,
        on_stopping=hub.close,
    )


def main() -> None:
    """The command `query-gateway`."""
    raise SystemExit(run(gateway(configure(GatewaySettings))))
