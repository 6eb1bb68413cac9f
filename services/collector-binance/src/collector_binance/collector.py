"""The Binance spot collector: connects catalogue, streams and REST to the engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from coinmesh_contracts import topics
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.checkpoints import Saved
from coinmesh_sources.collector import Collector
from coinmesh_sources.liveness import Coverage
from coinmesh_sources.recorder import Element
from coinmesh_sources.requests import RequestQueue
from coinmesh_sources.service import timestamp
from collector_binance import metrics as engine_metrics
from collector_binance.catalogue import TRADING, Catalogue
from collector_binance.core.commands import Command, ControlReply
from collector_binance.core.compiled import load
from collector_binance.core.encode import WRITTEN, Headers
from collector_binance.core.engine import Engine
from collector_binance.core.instruments import VENUE, instrument_name
from collector_binance.core.messages import Channel
from collector_binance.core.session import RELEASE, RETRY_GAP, Release, RetryGap, encode_parts
from collector_binance.exchange import request, rest_client
from collector_binance.restore import restore
from collector_binance.settings import CollectorSettings
from collector_binance.status import add_state, covered
from collector_binance.streams import Streams
from collector_binance.trade_backfill import TradeBackfill, span_of
from meshkit.backoff import Backoff
from meshkit.errors import NotFound, Unavailable
from meshkit.metrics import Metrics
from meshkit.registry import SchemaIds
from meshkit.settings import SettingsError
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)

CLOCK_SECONDS: Final = 60.0


class BinanceCollector(Collector[Engine]):
    """Collects the symbols of the settings, and those added at run time.

    Attributes:
        streams: The WebSocket connections; None until the engine runs.
        catalogue: The exchange's symbols.
    """

    channels: Sequence[str] = [channel.value for channel in Channel]

    def __init__(self, settings: CollectorSettings, tracing: Tracing) -> None:
        super().__init__(
            settings,
            tracing,
            source=VENUE,
            topics_written=WRITTEN,
            max_pending=settings.binance_waiting_records,
            latest_only=frozenset({topics.QUOTES.name}),
        )
        self.settings = settings
        self.url = settings.binance_rest_url
        self.streams: Streams | None = None
        self._requests: RequestQueue | None = None
        self._symbols: list[str] = []

    def register(self, metrics: Metrics) -> None:
        """Create the objects that export metrics before the engine runs."""
        super().register(metrics)
        self.rest = rest_client(self.settings, metrics)
        self.catalogue = Catalogue(self.rest)
        self._clock_offset = metrics.gauge(
            "source_clock_offset_seconds", "The source's clock minus ours, by REST time"
        )

    async def is_ready(self) -> bool:
        """Return whether every connection is open and subscribed."""
        return self.streams is not None and self.streams.is_live

    # Runtime hooks

    async def open(self) -> None:
        """Open the REST client and read the catalogue."""
        await self._cleanup.enter_async_context(self.rest)
        backoff = Backoff(base=1.0, cap=30.0)
        while True:
            try:
                await self.catalogue.refresh()
                return
            except Unavailable as error:
                _log.warning("%s; retrying", error.message, extra={"reason": error.reason})
                await backoff.wait()

    async def restore(self, saved: Saved) -> list[bytes]:
        """Return the checkpoint of the session, in parts.

        Raises:
            SettingsError: The exchange lacks a symbol of the settings.
        """
        self._symbols = self._chosen(saved)
        self.catalogue.changes(self._symbols)
        changed = saved.subscriptions.items()
        self.catalogue.removed(symbol for symbol, is_added in changed if not is_added)
        checkpoint = await restore(self.settings, saved)
        checkpoint.epoch = self.epoch
        _log.info("%d instruments continue at their checkpoints", len(checkpoint.symbols))
        return encode_parts(checkpoint)

    def create(self, ids: SchemaIds) -> tuple[Engine, Element | None]:
        """Create the engine, streams and requests."""
        fast = load() if self.settings.binance_compiled else None
        _log.info("the core is %s", "Python" if fast is None else "compiled")
        engine = Engine(Headers(ids.ids), fast=fast)
        self._requests = RequestQueue(self.rest, self.rest_connection, self.give, self.metrics)
        self.streams = Streams(self.settings, self.session, self.give, self.frame, self.metrics)
        engine_metrics.export(engine, self.metrics)
        return engine, None if fast is None else fast.element

    async def collect(self) -> None:
        """Subscribe the symbols and follow the catalogue and the exchange's clock."""
        assert self.streams is not None
        assert self._requests is not None
        for given in self.catalogue.inputs(self.rest_connection, self._symbols):
            self.give(given)
        _log.info("collecting %d symbols", len(self._symbols), extra={"session": self.session})
        async with asyncio.TaskGroup() as group:
            group.create_task(self._requests.run())
            group.create_task(self.streams.watch())
            group.create_task(self._follow_listings())
            group.create_task(self._measure_clock())
            await self.streams.add(self._symbols)

    def execute(self, command: Command) -> None:
        """Pass replies to their connection and requests to the queue."""
        assert self._requests is not None
        assert self.streams is not None
        if isinstance(command, ControlReply):
            self.streams.on_reply(command.connection, command.frame)
        else:
            self._requests.put(request(command, self.settings.binance_snapshot_limit))

    def pause(self, paused: bool) -> None:
        """Stop or resume both streams and REST requests."""
        assert self.streams is not None
        assert self._requests is not None
        self.streams.pause(paused)
        self._requests.pause(paused)

    def coverage(self) -> Iterator[Coverage]:
        """Return the coverage of every channel of every collected symbol."""
        assert self.engine is not None
        assert self.streams is not None
        return covered(self.engine, self.streams)

    async def disconnect(self) -> None:
        """Close the connections."""
        if self.streams is not None:
            await self.streams.close()

    # CollectorService

    @property
    def is_running(self) -> bool:
        """Return whether the engine runs."""
        return self.engine is not None and self.streams is not None

    def status(self) -> pb.CollectorStatus:
        """Return connections, streams, weight and open gaps."""
        status = pb.CollectorStatus(
            collector=VENUE,
            start_time=timestamp(self.start_time.timestamp()),
            used_weight=self.rest.budget.used(time.time()),
            weight_limit=self.rest.budget.limit,
        )
        if self.engine is not None and self.streams is not None:
            add_state(status, self.engine, self.streams)
        return status

    def instruments(self) -> list[str]:
        """Return the collected instruments, in order."""
        return sorted(self._collected())

    def resolve(self, instrument: str) -> str:
        """Return the canonical name of an instrument, including a delisted one that is collected.

        Raises:
            NotFound: There is no such instrument.
        """
        collected = self._collected()
        if instrument in collected:
            return instrument
        for name, symbol in collected.items():
            if symbol == instrument.upper():
                return name
        symbol = self.catalogue.symbol_of(instrument)
        return instrument_name(symbol, self.catalogue.infos[symbol])

    async def subscribe(self, instrument: str) -> None:
        """Begin to collect an instrument; persists across restarts."""
        symbol = self.catalogue.symbol_of(instrument)
        await self.remember(instrument, symbol, subscribed=True)
        await self._add(symbol)

    async def unsubscribe(self, instrument: str) -> None:
        """Stop collecting an instrument across restarts; later trades are not counted as missing.

        Raises:
            NotFound: The instrument is not collected.
        """
        assert self.streams is not None
        symbol = self._collected().get(instrument)
        if symbol is None:
            raise NotFound(
                "SUBSCRIPTION_NOT_FOUND", f"{instrument} is not collected", instrument=instrument
            )
        await self.remember(instrument, symbol, subscribed=False)
        self.catalogue.removed([symbol])
        await self.streams.remove(symbol)
        payload = msgspec.json.encode(Release(symbol))
        self.give(self.input(FrameKind.FRAME_KIND_SUBSCRIPTION, payload, RELEASE))

    def backfill(self, request: pb.BackfillRequest) -> TradeBackfill:
        """Return the backfill of a request; raises the errors of `span_of`.

        Raises:
            NotFound: There is no such instrument.
        """
        assert self.engine is not None
        symbol = self.catalogue.symbol_of(request.instrument)
        market = self.engine.markets.get(symbol)
        span = span_of(request, market.trades.last_id if market else None, symbol)
        assert market is not None
        return TradeBackfill(self, self.rest, self.settings, market, span)

    def retry_gap(self, gap_id: str) -> bool:
        """Repair a gap again; return False if no gap of that id is open or was given up."""
        assert self.engine is not None
        for market in self.engine.markets.values():
            if market.trades.unrepaired(gap_id) is not None:
                payload = msgspec.json.encode(RetryGap(market.symbol, gap_id))
                kind = FrameKind.FRAME_KIND_SUBSCRIPTION
                self.give(self.input(kind, payload, RETRY_GAP))
                return True
        return False

    # Symbols

    def _collected(self) -> dict[str, str]:
        assert self.streams is not None
        infos = self.catalogue.infos
        return {instrument_name(each, infos.get(each)): each for each in self.streams.symbols}

    async def _add(self, symbol: str) -> None:
        assert self.streams is not None
        for given in self.catalogue.inputs(self.rest_connection, [symbol]):
            self.give(given)
        await self.streams.add([symbol])

    def _chosen(self, saved: Saved) -> list[str]:
        """Return the settings' symbols with the changes made at run time."""
        changed, infos = saved.subscriptions, self.catalogue.infos
        chosen = self.settings.symbols
        if chosen is None:
            chosen = self.catalogue.trading()
        removed = [symbol for symbol in chosen if changed.get(symbol) is False]
        added = [symbol for symbol, is_added in changed.items() if is_added]
        if removed:
            _log.info("removed at run time: %s; AddSubscription resumes them", ", ".join(removed))
        kept = list(dict.fromkeys([*(s for s in chosen if s not in removed), *added]))
        missing = [symbol for symbol in kept if symbol not in infos]
        collected = {each.symbol for each in saved.streams.values()} | set(added)
        unknown = [symbol for symbol in missing if symbol not in collected]
        if unknown:
            raise SettingsError(
                f"COINMESH_BINANCE_SYMBOLS: the exchange at {self.rest.url} has no symbol "
                f"{', '.join(unknown)}; see {self.rest.url}/api/v3/exchangeInfo"
            )
        for symbol in missing:
            _log.warning("%s was delisted and is no longer collected", symbol)
        return [symbol for symbol in kept if symbol in infos]

    async def _follow_listings(self) -> None:
        """Apply catalogue changes: the streams of a delisted symbol stop without a notice."""
        assert self.streams is not None
        while True:
            await asyncio.sleep(self.settings.binance_catalogue_seconds)
            if self.is_backed_up:
                continue
            try:
                await self.catalogue.refresh()
            except Unavailable as error:
                _log.warning("%s", error.message, extra={"reason": error.reason})
                continue
            if self.settings.symbols is None:
                listed, delisted = self.catalogue.changes(self.streams.symbols)
                for symbol in listed:
                    await self._add(symbol)
                for symbol in delisted:
                    _log.warning("%s was delisted and is no longer collected", symbol)
                    await self.streams.remove(symbol)
            symbols = self.streams.symbols
            for given in self.catalogue.inputs(self.rest_connection, symbols):
                self.give(given)
            for symbol in symbols:
                if (status := self.catalogue.status(symbol)) != TRADING:
                    _log.warning("%s does not trade: %s", symbol, status)

    async def _measure_clock(self) -> None:
        """Measure the exchange's clock offset; it is reported, never used to change a time."""
        while True:
            answer = await self.rest.get("/api/v3/time", {}, 1)
            try:
                server_ns = int(msgspec.json.decode(answer.body)["serverTime"]) * 1000
                middle_ns = answer.receive_ns - answer.round_trip_ns // 2
                self._clock_offset.set((server_ns - middle_ns) / 1e9)
            except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
                _log.warning("the exchange's time can't be read: %s", error)
            await asyncio.sleep(CLOCK_SECONDS)
