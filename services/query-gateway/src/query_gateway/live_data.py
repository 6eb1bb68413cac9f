"""The live data of a replica: the view, the feed that fills it, and the hub that publishes it."""

from meshkit.decoding import Decoder, Letters
from meshkit.tracing import Tracing
from query_gateway.cache import Cache
from query_gateway.coverage import Coverage
from query_gateway.feed import Feed
from query_gateway.hub import Hub
from query_gateway.latest import LatestWriter
from query_gateway.live_view import LiveView
from query_gateway.settings import GatewaySettings


class LiveData:
    """Creates the objects that hold live data and connects them."""

    def __init__(
        self,
        settings: GatewaySettings,
        decoder: Decoder,
        cache: Cache,
        rejections: Letters,
        tracing: Tracing,
    ) -> None:
        self.view = LiveView(settings.kept_trades)
        self.hub = Hub(settings.kept_events, settings.reader_queue)
        self.coverage = Coverage()
        self.latest = LatestWriter(cache, self.view)
        self.feed = Feed(
            settings,
            decoder,
            self.view,
            self.coverage,
            self.hub,
            rejections=rejections,
            note=self.latest.note,
            tracing=tracing,
        )
