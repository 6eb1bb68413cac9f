"""How long others may keep a chart."""

from typing import Any

import pytest
from market_data import INSTRUMENT, MemorySession, bar, bar_row, instrument, nothing_missing

from coinmesh_contracts.market.v1.market_service_pb2 import ViewBarsRequest
from meshkit.errors import Unavailable
from query_gateway.charts import Charts
from query_gateway.coverage import Coverage
from query_gateway.history import History
from query_gateway.hub import Hub
from query_gateway.listings import Listings
from query_gateway.live_view import LiveView
from query_gateway.market_service import MarketService
from query_gateway.market_stream import MarketStream

NOW_MS = 1_790_000_000_000 // 60_000 * 60_000
HOUR_MS = 3_600_000


class NoRedis:
    """Redis that holds nothing."""

    async def get(self, key: str) -> None:
        return None

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        return None


class Call:
    """What a call sends before its reply."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.metadata.update(metadata)


class Service:
    """The service over rows in memory."""

    def __init__(self) -> None:
        self.session: Any = MemorySession()
        self.session.put_bar("1m", bar_row(NOW_MS - HOUR_MS))
        view = LiveView(100)
        view.apply(instrument())
        view.apply(bar(NOW_MS, trades=3, final=True))
        redis: Any = NoRedis()
        history = History(self.session, view.newest_ms, lambda: NOW_MS / 1000)
        coverage = Coverage()
        self._market = MarketService(
            view,
            coverage,
            Listings(history, view, nothing_missing),
            MarketStream(Hub(10, 10), coverage),
            charts=Charts(redis, 10),
            cache=redis,
            ready=lambda: True,
            live=lambda: True,
        )

    async def view(self, call: Any, end_ms: int) -> bytes:
        """The chart's bytes."""
        request = ViewBarsRequest(instrument=INSTRUMENT, interval="1m")
        request.end_time.FromMilliseconds(end_ms)
        return (await self._market.ViewBars(request, call)).data


@pytest.mark.parametrize(("end_ms", "kept"), [(NOW_MS - HOUR_MS // 2, True), (NOW_MS, False)])
async def test_chart_of_closed_bars_alone_may_be_kept(end_ms: int, kept: bool) -> None:
    service = Service()
    for _ in range(2):  # rendered, and from memory
        call = Call()
        assert await service.view(call, end_ms)
        assert ("max-age" in call.metadata.get("cache-control", "")) == kept


async def test_chart_that_fails_may_not_be_kept() -> None:
    service, call = Service(), Call()
    service.session.failing = lambda _read: True
    with pytest.raises(Unavailable):
        await service.view(call, NOW_MS - HOUR_MS // 2)
    assert call.metadata == {}
