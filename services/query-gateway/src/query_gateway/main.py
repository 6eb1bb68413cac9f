"""The query-gateway's process: settings in, objects wired, served."""

from __future__ import annotations

import asyncio

from coinmesh_contracts.query.v1.collector_directory_service_pb2_grpc import (
    add_CollectorDirectoryServiceServicer_to_server,
)
from coinmesh_contracts.query.v1.event_service_pb2_grpc import add_EventServiceServicer_to_server
from meshkit.audit import AuditLog
from meshkit.metrics import Metrics
from meshkit.registry import Registry
from meshkit.service import configure, run, serve
from meshkit.tracing import Tracing
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
from query_gateway.sessions import Sessions, add_session_service
from query_gateway.settings import GatewaySettings, parse_collectors
from query_gateway.stored_rows import statements


async def gateway(settings: GatewaySettings) -> int:
    """Runs the service; its exit status."""
    tracing = Tracing(settings, metrics := Metrics())
    decoder = await feed.decoder(Registry(settings), metrics)
    session = CassandraSession(settings, statements(), metrics, tracing)
    cache = Cache(settings, metrics, tracing)
    view, hub = LiveView(settings.kept_trades), Hub(settings.kept_events, settings.reader_queue)
    latest = LatestWriter(cache, view)
    note = latest.note
    live = feed.Feed(settings, decoder, view, hub, note=note, metrics=metrics, tracing=tracing)
    stored = History(session, view.newest_ms)
    bootstrap = Bootstrap(view, stored, cache, (live.caught_up, session.connected))
    collectors = CollectorDirectory(settings, parse_collectors(settings.collectors))
    market = MarketService(
        view,
        Listings(stored, view),
        MarketStream(hub),
        charts=Charts(cache, settings.chart_ttl_seconds, metrics),
        cache=cache,
        ready=bootstrap.done.is_set,
        live=lambda: live.connected and live.caught_up.is_set(),
    )
    log = AuditLog(settings, source=settings.service_name, metrics=metrics)
    events = EventService(settings, decoder, lambda: live.connected)
    return await serve(
        settings,
        servicers=[
            (add_market_service, market),
            (add_EventServiceServicer_to_server, events),
            (add_CollectorDirectoryServiceServicer_to_server, collectors),
            (add_session_service, sessions := Sessions(settings, log)),
        ],
        background=[session.run, live.run, live.probe, bootstrap.run, latest.run, log.run],
        on_drain=[collectors.close, sessions.close, session.close, cache.close, log.close],
        readiness={"view": lambda: asyncio.sleep(0, bootstrap.done.is_set())},
        metrics=metrics,
        tracing=tracing,
        on_stopping=hub.close,
        on_denied=log.denied,
    )


def main() -> None:
    """The command `query-gateway`."""
    raise SystemExit(run(gateway(configure(GatewaySettings))))
