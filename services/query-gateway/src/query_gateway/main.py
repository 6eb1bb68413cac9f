"""The query-gateway's process: read settings, construct objects, serve."""

from coinmesh_audit.log import AuditLog
from meshkit.cassandra_session import CassandraSession
from meshkit.dlq import DeadLetterCounter
from meshkit.registry import Registry
from meshkit.service import configure, run, serve
from meshkit.tracing import Tracing
from query_gateway.bootstrap import Bootstrap
from query_gateway.cache import Cache
from query_gateway.charts import Charts
from query_gateway.collector_directory import CollectorDirectory, add_collector_directory
from query_gateway.event_service import EventService, add_event_service
from query_gateway.feed import create_decoder
from query_gateway.history import History
from query_gateway.listings import Listings
from query_gateway.live_data import LiveData
from query_gateway.market_service import MarketService
from query_gateway.market_stream import MarketStream, add_market_service
from query_gateway.sessions import Sessions, add_session_service
from query_gateway.settings import GatewaySettings
from query_gateway.stored_rows import statements
from query_gateway.trade_backlog import TradeBacklog


async def run_gateway(settings: GatewaySettings) -> int:
    """Run the query gateway until shutdown and return the exit status."""
    tracing = Tracing(settings)
    audit = AuditLog(settings, source=settings.service_name)
    rejections = DeadLetterCounter()
    decoder = await create_decoder(Registry(settings), rejections)
    cassandra = CassandraSession(settings, statements(), tracing)
    cache = Cache(settings, tracing)
    live = LiveData(settings, decoder, cache, rejections, tracing)
    view, coverage, feed = live.view, live.coverage, live.feed
    history = History(cassandra, view.newest_ms)
    bootstrap = Bootstrap(view, history, cache, (feed.caught_up, cassandra.connected))
    charts, ready = Charts(cache, settings.chart_ttl_seconds), bootstrap.done.is_set
    backlog = TradeBacklog(settings, decoder, feed.trade_starts)
    listings, stream = Listings(history, view, backlog.missing), MarketStream(live.hub, coverage)
    market = MarketService(
        view, coverage, listings, stream, charts=charts, cache=cache, ready=ready, live=feed.is_live
    )
    events = EventService(settings, decoder, feed.is_connected)
    collectors, sessions = CollectorDirectory(settings), Sessions(settings, audit)
    servicers = [
        (add_market_service, market),
        (add_event_service, events),
        (add_collector_directory, collectors),
        (add_session_service, sessions),
    ]
    stores, live_parts = [audit, cache, cassandra, charts], [live.hub, live.latest, feed, bootstrap]
    resources = [rejections, backlog, *stores, *live_parts, sessions, collectors, events]
    return await serve(settings, servicers, resources, tracing=tracing)


def main() -> None:
    """Run the command `query-gateway`."""
    raise SystemExit(run(run_gateway(configure(GatewaySettings))))
