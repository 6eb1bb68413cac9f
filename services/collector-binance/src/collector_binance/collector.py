"""The running collector: the engine between the exchange and Kafka, everything recorded.

One order of inputs: each goes into the engine, its events to the outlet, itself to the recording,
and what the engine asks for to REST or to a connection.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

import msgspec
from google.protobuf.message import Message

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from collector_binance import checkpoint, measures
from collector_binance.catalogue import TRADING, Catalogue
from collector_binance.connections import Connections
from collector_binance.core.commands import ControlReply
from collector_binance.core.compiled import load
from collector_binance.core.encode import WRITTEN, Headers
from collector_binance.core.engine import Engine, Input
from collector_binance.core.frames import FrameRecorder
from collector_binance.core.instruments import VENUE
from collector_binance.core.session import RETRY_GAP, RetryGap
from collector_binance.outlet import Outgoing, Outlet
from collector_binance.requests import Requests
from collector_binance.rest import RestClient
from collector_binance.settings import CollectorSettings
from collector_binance.traces import FrameTraces
from meshkit.backoff import Backoff
from meshkit.errors import Unavailable
from meshkit.kafka import Config
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import Registry, SchemaIds
from meshkit.resources import Resource
from meshkit.settings import SettingsError
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
DRAIN_SECONDS: Final = 4.0
# A round of frames gathers already; see `Outlet`.
_PRODUCER: Final[Config] = {"linger.ms": 1}
CLOCK_SECONDS: Final = 60.0
_LOOK_NS: Final = 5 * 10**9
_TOPICS: Final = (*WRITTEN, topics.FRAMES)


class Collector(Resource):
    """Everything that runs.

    Attributes:
        engine: The logic and its state; None until the schemas are known.
        connections: The connections; None until the engine runs.
        catalogue: What the exchange trades.
        start_time: When this process was started.
    """

    def __init__(self, settings: CollectorSettings, metrics: Metrics, tracing: Tracing) -> None:
        self.settings, self.metrics = settings, metrics
        self._traces = FrameTraces(tracing)
        self.start_time = datetime.now(UTC)
        # Time first, so that sessions sort; random, so that no two are alike.
        self.session = f"{VENUE}/{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(3)}"
        self.engine: Engine | None = None
        self.connections: Connections | None = None
        self.rest = RestClient(settings, metrics)
        self.catalogue = Catalogue(self.rest)
        self._recorder: FrameRecorder | None = None
        # Once seen as trading: what was then removed by RPC isn't added again.
        self._known: set[str] = set()
        self._outlet: Outlet | None = None
        self._producer: Producer | None = None
        self._requests: Requests | None = None
        self._cleanup = AsyncExitStack()
        self._registry = Registry(settings)
        self._clock_offset = metrics.gauge(
            "binance_clock_offset_seconds", "The exchange's clock minus ours, by REST time"
        )

    @property
    def rest_connection(self) -> str:
        """The name under which REST answers are recorded."""
        return f"{self.session}/0"

    async def is_ready(self) -> bool:
        """Whether every connection is open and subscribed."""
        return self.connections is not None and self.connections.is_live

    async def run(self) -> None:
        """Wait for what is needed, then collect.

        Raises:
            FailedPrecondition: A schema or topic is missing.
            SettingsError: The exchange lacks a symbol that was asked for.
            DataLoss: Kafka refused a record.
        """
        ids = await self._schema_ids()
        producer = Producer(self.settings, client_id=VENUE, metrics=self.metrics, config=_PRODUCER)
        self._producer = await self._cleanup.enter_async_context(producer)
        await self._producer.check_topics(topic.name for topic in _TOPICS)
        await self._cleanup.enter_async_context(self.rest)
        await self._read_catalogue()
        symbols = self._chosen()
        self._known = set(self.catalogue.trading())
        left = await checkpoint.read(self.settings, symbols)
        self._wire(ids, self._producer)
        assert self.engine is not None
        assert self.connections is not None
        assert self._outlet is not None
        assert self._requests is not None
        payload = msgspec.json.encode(left)
        self.give(self._input(FrameKind.FRAME_KIND_CONNECT, payload, self.rest.url))
        for given in self.catalogue.inputs(self.rest_connection, symbols):
            self.give(given)
        _log.info("collecting %d symbols", len(symbols), extra={"session": self.session})
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outlet.run())
            group.create_task(self._producer.run())
            group.create_task(self._requests.run())
            group.create_task(self.connections.watch())
            group.create_task(self._wake_forever())
            group.create_task(self._watch_catalogue())
            group.create_task(self._measure_clock())
            await self.connections.add(symbols)

    def frame(self, frame: bytes, receive_ns: int, connection: str) -> None:
        """The hot path: a WebSocket message."""
        engine, outlet, recorder = self.engine, self._outlet, self._recorder
        assert engine is not None
        assert outlet is not None
        assert recorder is not None
        sequence = engine.sequence
        full = recorder.message(frame, receive_ns, connection, sequence)
        events: Sequence[Outgoing] = ()
        try:
            events = engine.process(frame, receive_ns, connection)
        except BaseException:
            # Recorded and counted whatever happens, so that the archived session stays readable.
            engine.sequence = sequence + 1
            outlet.put((), full)
            raise
        traces = self._traces
        traces.wait -= 1
        if traces.wait < 0:
            events = traces.choose(events, receive_ns, connection)
        outlet.put(events, full)
        if engine.commands:
            self._carry_out()

    def give(self, given: Input) -> None:
        """Any other input."""
        engine, outlet, recorder = self.engine, self._outlet, self._recorder
        assert engine is not None
        assert outlet is not None
        assert recorder is not None
        sequence = engine.sequence
        full = recorder.add(given, sequence)
        try:
            events = engine.apply(given)
        except BaseException:
            engine.sequence = sequence + 1
            outlet.put((), full)
            raise
        outlet.put(events, full)
        if engine.commands:
            self._carry_out()

    async def add(self, symbol: str) -> None:
        """Begin to collect a symbol."""
        assert self.connections is not None
        for given in self.catalogue.inputs(self.rest_connection, [symbol]):
            self.give(given)
        await self.connections.add([symbol])

    def retry_gap(self, gap_id: str) -> bool:
        """Repair a gap again; False when no gap of that id is open or was given up."""
        assert self.engine is not None
        for market in self.engine.markets.values():
            if market.trades.unrepaired(gap_id) is not None:
                payload = msgspec.json.encode(RetryGap(market.symbol, gap_id))
                kind = FrameKind.FRAME_KIND_SUBSCRIPTION
                self.give(self._input(kind, payload, RETRY_GAP))
                return True
        return False

    async def delivered(self) -> None:
        """Wait until Kafka has acknowledged every event that was made before the call."""
        assert self._outlet is not None
        await self._outlet.delivered()

    async def close(self) -> None:
        """Close the exchange's connections and send what was received.

        Raises:
            Unavailable: Kafka did not take all of it; the next start reads it from the exchange.
        """
        try:
            if self.connections is not None:
                await self.connections.close()
            if self._outlet is not None:
                await self._outlet.close(DRAIN_SECONDS)
        finally:
            await self._cleanup.aclose()
            self._registry.close()

    def _wire(self, ids: SchemaIds, producer: Producer) -> None:
        fast = load() if self.settings.binance_compiled else None
        _log.info("the core is %s", "Python" if fast is None else "compiled")
        self._recorder = FrameRecorder(ids.ids[topics.FRAMES.name], fast)
        self._outlet = Outlet(
            producer, self._recorder, self.settings.binance_waiting_records, self.metrics
        )
        self.engine = Engine(Headers(ids.ids), fast=fast)
        self._requests = Requests(
            self.rest,
            self.rest_connection,
            self.settings.binance_snapshot_limit,
            self.give,
            self.metrics,
        )
        self.connections = Connections(
            self.settings, self.session, self.give, self.frame, self.metrics
        )
        self._outlet.on_pressure = self._pause
        measures.export(self.engine, self.metrics)

    def _pause(self, paused: bool) -> None:
        """Nothing is read from the exchange while Kafka takes nothing, neither stream nor REST."""
        assert self.connections is not None
        assert self._requests is not None
        self.connections.pause(paused)
        self._requests.pause(paused)

    async def _schema_ids(self) -> SchemaIds:
        wanted: dict[str, type[Message]] = {}
        for topic in _TOPICS:
            assert topic.message is not None
            wanted[topic.name] = topic.message
        backoff = Backoff(base=1.0, cap=30.0)
        while True:
            try:
                return await self._registry.resolve(wanted)
            except Unavailable as error:
                _log.warning("%s; retrying", error.message, extra={"reason": error.reason})
                await backoff.wait()

    async def _read_catalogue(self) -> None:
        backoff = Backoff(base=1.0, cap=30.0)
        while True:
            try:
                await self.catalogue.refresh()
                return
            except Unavailable as error:
                _log.warning("%s; retrying", error.message, extra={"reason": error.reason})
                await backoff.wait()

    def _chosen(self) -> list[str]:
        chosen = self.settings.symbols
        if chosen is None:
            return self.catalogue.trading()
        unknown = [symbol for symbol in chosen if symbol not in self.catalogue.infos]
        if unknown:
            raise SettingsError(
                f"COINMESH_BINANCE_SYMBOLS: the exchange at {self.rest.url} has no symbol "
                f"{', '.join(unknown)}; see {self.rest.url}/api/v3/exchangeInfo"
            )
        return chosen

    async def _wake_forever(self) -> None:
        """Timers come in, save while Kafka takes nothing: what they ask for would only pile up."""
        assert self.engine is not None
        assert self._outlet is not None
        next_look = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.time_ns()
            if now >= next_look:
                next_look = now + _LOOK_NS
                for market in self.engine.markets.values():
                    market.look(now)
            deadline = self.engine.deadline
            if deadline is not None and deadline <= now and not self._outlet.is_pressed:
                self.give(self._input(FrameKind.FRAME_KIND_TICK))

    async def _watch_catalogue(self) -> None:
        """Definitions and statuses change: a delisted symbol's streams fall silent for ever."""
        assert self.connections is not None
        while True:
            await asyncio.sleep(self.settings.binance_catalogue_seconds)
            if self._outlet is not None and self._outlet.is_pressed:
                continue
            try:
                await self.catalogue.refresh()
            except Unavailable as error:
                _log.warning("%s", error.message, extra={"reason": error.reason})
                continue
            if self.settings.symbols is None:
                await self._follow_listings(self.catalogue.trading())
            symbols = self.connections.symbols
            for given in self.catalogue.inputs(self.rest_connection, symbols):
                self.give(given)
            for symbol in symbols:
                info = self.catalogue.infos.get(symbol)
                if info is None or info.status != TRADING:
                    status = info.status if info else "delisted"
                    _log.warning("%s does not trade: %s", symbol, status)

    async def _follow_listings(self, trading: Sequence[str]) -> None:
        """All that trade are collected: begin with what was listed, stop with what was delisted."""
        assert self.connections is not None
        collected = set(self.connections.symbols)
        for symbol in sorted(set(trading) - collected - self._known):
            await self.add(symbol)
        for symbol in sorted(collected - set(self.catalogue.infos)):
            _log.warning("%s was delisted; it is collected no longer", symbol)
            await self.connections.remove(symbol)
        self._known = {*trading, *self._known}

    async def _measure_clock(self) -> None:
        """The exchange's clock against ours; told, never used to change a time."""
        while True:
            answer = await self.rest.get("/api/v3/time", {}, 1)
            try:
                server_ns = int(msgspec.json.decode(answer.body)["serverTime"]) * 1000
                middle_ns = answer.receive_ns - answer.round_trip_ns // 2
                self._clock_offset.set((server_ns - middle_ns) / 1e9)
            except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
                _log.warning("the exchange's time can't be read: %s", error)
            await asyncio.sleep(CLOCK_SECONDS)

    def _carry_out(self) -> None:
        assert self.engine is not None
        assert self._requests is not None
        assert self.connections is not None
        commands = self.engine.commands[:]
        self.engine.commands.clear()
        for command in commands:
            if isinstance(command, ControlReply):
                self.connections.on_reply(command.connection, command.frame)
            else:
                self._requests.want(command)

    def _input(self, kind: FrameKind.ValueType, payload: bytes = b"", context: str = "") -> Input:
        return Input(kind, self.rest_connection, time.time_ns(), payload, context)
