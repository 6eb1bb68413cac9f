"""MarketService: answers requests from the live view and history."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import grpc.aio
from google.api.httpbody_pb2 import HttpBody

from coinmesh_contracts.market.v1 import market_service_pb2 as api
from coinmesh_contracts.market.v1.book_pb2 import Book
from coinmesh_contracts.market.v1.instrument_pb2 import Instrument
from coinmesh_contracts.market.v1.leaderboard_pb2 import Leaderboard, LeaderboardEntry
from coinmesh_contracts.market.v1.market_service_pb2_grpc import MarketServiceServicer
from coinmesh_contracts.market.v1.ticker_pb2 import Ticker
from meshkit.errors import InvalidArgument, Unavailable
from query_gateway import intervals, rendering, requests, tokens
from query_gateway.cache import Cache
from query_gateway.charts import Charts
from query_gateway.coverage import Coverage
from query_gateway.day_figures import LEADERBOARDS, texts
from query_gateway.listings import Listings
from query_gateway.live_view import LiveView
from query_gateway.market_stream import MarketStream
from query_gateway.requests import MAX_MS, ceil_ms, floor_ms

Context = grpc.aio.ServicerContext[Any, Any]
INDICATORS: Final = ("sma", "ema", "vwap", "rsi", "bollinger")
_CHART_ROWS: Final = 5000
_BOOK_DEPTH: Final = 1000
_BOOK_RETRY_SECONDS: Final = 5.0
_STARTING_RETRY_SECONDS: Final = 2.0
_HORIZON_MS: Final = 600_000  # twice the time in which the stream can revise a bar
_MAY_BE_KEPT: Final = (("cache-control", "public, max-age=30"),)


class MarketService(MarketServiceServicer):
    """Answers requests about markets.

    Args:
        view: The live view.
        coverage: Staleness of data.
        listings: Paged listings of history and live data.
        charts: Rendered charts.
        cache: Provides leaderboards until the view is filled.
        stream: The live stream.
        ready: Returns whether the view has been filled since the start.
        live: Returns whether live data is arriving.
    """

    def __init__(
        self,
        view: LiveView,
        coverage: Coverage,
        listings: Listings,
        stream: MarketStream,
        *,
        charts: Charts,
        cache: Cache,
        ready: Callable[[], bool],
        live: Callable[[], bool],
    ) -> None:
        self._view, self._listings, self._cache = view, listings, cache
        self._ready, self._live, self._coverage = ready, live, coverage
        self._charts = charts
        self._stream = stream

    async def ListInstruments(  # noqa: N802
        self, request: api.ListInstrumentsRequest, context: Context
    ) -> api.ListInstrumentsResponse:
        """Return the instruments, by name."""
        names, token = self._names("ListInstruments", request.page_size, request.page_token)
        found = [rendering.instrument(self._view.instruments[name]) for name in names]
        return api.ListInstrumentsResponse(instruments=found, next_page_token=token)

    async def GetInstrument(  # noqa: N802
        self, request: api.GetInstrumentRequest, context: Context
    ) -> Instrument:
        """Return one instrument."""
        return rendering.instrument(self._view.instruments[self._known(request.instrument)])

    async def GetTicker(  # noqa: N802
        self, request: api.GetTickerRequest, context: Context
    ) -> Ticker:
        """Return one ticker."""
        return self._ticker(self._known(request.instrument))

    async def ListTickers(  # noqa: N802
        self, request: api.ListTickersRequest, context: Context
    ) -> api.ListTickersResponse:
        """Return the tickers, by name."""
        names, token = self._names("ListTickers", request.page_size, request.page_token)
        found = [self._ticker(name) for name in names]
        return api.ListTickersResponse(tickers=found, next_page_token=token)

    async def ListBars(  # noqa: N802
        self, request: api.ListBarsRequest, context: Context
    ) -> api.ListBarsResponse:
        """Return bars, oldest first; without a start the newest, then older ones page by page."""
        name = self._known(request.instrument)
        interval = intervals.parse(request.interval)
        start, end = requests.time_range(request)
        limit = requests.size("page_size", request.page_size, 500, 1000)
        arguments = (name, interval.ms, start, end)
        low, high = ceil_ms(start, 0), ceil_ms(end, MAX_MS)
        if request.page_token:
            bound = tokens.read(request.page_token, "ListBars", arguments, (int,))
            low, high = _narrow(low, high, int(bound[0]), newest_first=start is None)
        page = await self._listings.bars(
            name, interval, low, high, newest_first=start is None, limit=limit
        )
        token = tokens.make("ListBars", arguments, [page.next]) if page.next is not None else ""
        found = [rendering.bar(row) for row in page.rows]
        return api.ListBarsResponse(bars=found, next_page_token=token)

    async def ViewBars(  # noqa: N802
        self, request: api.ViewBarsRequest, context: Context
    ) -> HttpBody:
        """Return a chart's bars as columns of JSON.

        The cache key contains the newest bar's version and the last late change, both read before
        history, so a cached chart is never older than its key. While no live data arrives, versions
        are unreliable and nothing is cached. External caching is allowed only once the stream can
        no longer revise any of the bars.
        """
        name = self._known(request.instrument)
        interval = intervals.parse(request.interval)
        start, end = requests.time_range(request)
        limit = requests.strict_size("page_size", request.page_size, 500, _CHART_ROWS)
        low, high = (interval.ceil(ms) for ms in (ceil_ms(start, 0), ceil_ms(end, MAX_MS)))
        newest_first = start is None
        version = self._view.series(name, interval.stored).fingerprint
        closed = high + _HORIZON_MS <= self._view.closed_until(name)
        key = f"cm:chart:{name}:{interval.name}:{newest_first:d}:{low}:{high}:{limit}:{version}"
        data = await self._charts.get(key) if self._live() else None
        if data is None:
            data = await self._chart(
                name, interval, low, high, newest_first=newest_first, limit=limit
            )
            if self._live():
                await self._charts.put(key, data)
        # Sent last: an error must not be cached.
        if closed:
            await context.send_initial_metadata(_MAY_BE_KEPT)
        return HttpBody(content_type="application/json", data=data)

    async def _chart(
        self,
        name: str,
        interval: intervals.Interval,
        low: int,
        high: int,
        *,
        newest_first: bool,
        limit: int,
    ) -> bytes:
        page = await self._listings.bars(
            name, interval, low, high, newest_first=newest_first, limit=limit, chart=True
        )
        if page.next is not None and len(page.rows) < limit:
            raise InvalidArgument(
                "RANGE_TOO_LARGE",
                "the range holds too little in too many places for one chart; narrow it, take a "
                "longer interval, or list its bars in pages",
                field="start_time",
            )
        return rendering.chart(name, interval.name, page.rows)

    async def ListTrades(  # noqa: N802
        self, request: api.ListTradesRequest, context: Context
    ) -> api.ListTradesResponse:
        """Return trades in order; without a start the newest, then older ones page by page."""
        name = self._known(request.instrument)
        start, end = requests.time_range(request)
        limit = requests.size("page_size", request.page_size, 500, 1000)
        arguments = (name, start, end)
        low, high = (floor_ms(start), 0), (ceil_ms(end, MAX_MS), 0)
        if request.page_token:
            time_ms, trade_id = tokens.read(request.page_token, "ListTrades", arguments, (int, int))
            bound = (int(time_ms), int(trade_id))
            low, high = (low, min(high, bound)) if start is None else (max(low, bound), high)
        page = await self._listings.trades(name, low, high, newest_first=start is None, limit=limit)
        token = tokens.make("ListTrades", arguments, [*page.next]) if page.next else ""
        found = [
            rendering.trade(row) for row in page.rows if _inside(row.time_us * 1000, start, end)
        ]
        return api.ListTradesResponse(trades=found, next_page_token=token)

    async def GetBook(self, request: api.GetBookRequest, context: Context) -> Book:  # noqa: N802
        """Return the current book, or an error if it isn't certainly correct."""
        name = self._known(request.instrument)
        depth = requests.strict_size("depth", request.depth, 20, _BOOK_DEPTH)
        book = self._view.books.get(name)
        if book is None or not book.ready:
            raise Unavailable(
                "BOOK_NOT_READY",
                f"the order book of {name} isn't known yet; it will be with its next snapshot, "
                "within a minute",
                retry_after_seconds=_BOOK_RETRY_SECONDS,
                instrument=name,
            )
        stale = self._coverage.is_stale(name, ("book",))
        return rendering.book(name, book.view(depth), stale=stale)

    async def ListIndicators(  # noqa: N802
        self, request: api.ListIndicatorsRequest, context: Context
    ) -> api.ListIndicatorsResponse:
        """Return values of indicators; without a start the newest, then older ones page by page."""
        name = self._known(request.instrument)
        interval = intervals.parse_stored(request.interval)
        indicator = request.indicator
        if indicator:
            requests.one_of("indicator", "UNKNOWN_INDICATOR", indicator, INDICATORS)
        start, end = requests.time_range(request)
        limit = requests.size("page_size", request.page_size, 500, 1000)
        arguments = (name, interval.ms, indicator, start, end)
        low, high = (ceil_ms(start, 0), ""), (ceil_ms(end, MAX_MS), "")
        if request.page_token:
            at, key = tokens.read(request.page_token, "ListIndicators", arguments, (int, str))
            bound = (int(at), str(key))
            low, high = (low, min(high, bound)) if start is None else (max(low, bound), high)
        page = await self._listings.indicators(
            name, interval, low, high, indicator, newest_first=start is None, limit=limit
        )
        token = tokens.make("ListIndicators", arguments, [*page.next]) if page.next else ""
        found = [rendering.indicator(row) for row in page.rows]
        return api.ListIndicatorsResponse(indicators=found, next_page_token=token)

    async def GetLeaderboard(  # noqa: N802
        self, request: api.GetLeaderboardRequest, context: Context
    ) -> Leaderboard:
        """Return a leaderboard; until this replica's view is filled, the cached one."""
        name = requests.one_of(
            "leaderboard", "UNKNOWN_LEADERBOARD", request.leaderboard, LEADERBOARDS
        )
        limit = requests.size("page_size", request.page_size, 10, 1000)
        if self._ready():
            ranking = texts(self._view.ranking(name))
        else:
            highest = name != "losers"
            ranking = await self._cache.ranking(name, limit, highest=highest)
            # Scores are floating-point numbers: equal scores are ordered by exact value here.
            sign = -1 if highest else 1
            ranking.sort(key=lambda item: (sign * Decimal(item[1]), item[0]))
            if not ranking:
                raise _starting()
        entries = [
            LeaderboardEntry(rank=rank, instrument=instrument, value=value)
            for rank, (instrument, value) in enumerate(ranking[:limit], 1)
        ]
        end = rendering.time_of_ms(self._view.day.clock_ms) if self._ready() else None
        return Leaderboard(name=name, entries=entries, end_time=end)

    def StreamMarket(self, request: api.StreamMarketRequest, context: Context) -> Any:  # noqa: N802
        """Stream live events as encoded messages."""
        for name in request.instruments:
            self._known(name)
        return self._stream.read(request)

    def _known(self, name: str) -> str:
        if name not in self._view.instruments and not self._ready():
            raise _starting()
        return requests.instrument(name, self._view.instruments)

    def _names(self, method: str, page_size: int, page_token: str) -> tuple[list[str], str]:
        limit = requests.size("page_size", page_size, 100, 1000)
        if not self._ready():
            raise _starting()
        after = str(tokens.read(page_token, method, (), (str,))[0]) if page_token else ""
        names = sorted(name for name in self._view.instruments if name > after)
        more = len(names) > limit
        token = tokens.make(method, (), [names[limit - 1]]) if more else ""
        return names[:limit], token

    def _ticker(self, name: str) -> Ticker:
        known = self._ready() and name not in self._view.unloaded
        figures = self._view.day.of(name) if known else None
        last, best = self._view.last_trade(name), self._view.quotes.get(name)
        channels = [channel for channel, row in (("trade", last), ("quote", best)) if row]
        stale = self._coverage.is_stale(name, channels or ("trade", "quote"))
        return rendering.ticker(name, last, best, figures, stale=stale)


def _narrow(low: int, high: int, bound: int, *, newest_first: bool) -> tuple[int, int]:
    return (low, min(high, bound)) if newest_first else (max(low, bound), high)


def _inside(time_ns: int, start: int | None, end: int | None) -> bool:
    return (start is None or start <= time_ns) and (end is None or time_ns < end)


def _starting() -> Unavailable:
    return Unavailable(
        "STARTING",
        "the gateway is reading what it must know first; try again in a few seconds",
        retry_after_seconds=_STARTING_RETRY_SECONDS,
    )
