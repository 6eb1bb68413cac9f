"""The runtime of a collector: connects its engine to a source and to Kafka and records all inputs.

Inputs are processed in one order: the engine processes an input, its events are queued for Kafka,
the input itself is recorded, and the engine's commands are executed. A collector subclasses
`Collector` with its engine, its connections and its REST requests.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources import checkpoints
from coinmesh_sources.checkpoints import CheckpointWriter, Saved
from coinmesh_sources.inputs import Engine, Input, Writer
from coinmesh_sources.liveness import Coverage, LivenessPublisher
from coinmesh_sources.publisher import Outgoing, Publisher
from coinmesh_sources.recorder import Element, FrameRecorder
from coinmesh_sources.settings import SourceSettings
from coinmesh_sources.traces import FrameTraces
from meshkit.backoff import Backoff
from meshkit.errors import Unavailable
from meshkit.kafka import Config
from meshkit.metrics import Metrics
from meshkit.producer import Producer
from meshkit.registry import Registry, SchemaIds
from meshkit.resources import Resource
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1
DRAIN_SECONDS: Final = 4.0
# The publisher's rounds already batch records; see `Publisher`.
_PRODUCER: Final[Config] = {"linger.ms": 1}
_OWN_TOPICS: Final = (topics.FRAMES, topics.CHECKPOINTS, topics.LIVENESS)

E = TypeVar("E", bound=Engine)


class Collector(Resource, Generic[E]):
    """A collector's connections, engine and background tasks; a resource of `serve`.

    Args:
        settings: The service's settings.
        tracing: Creates the spans of sampled frames.
        source: The source's name.
        topics_written: The topics of the engine's events.
        max_pending: Events that may wait for Kafka before reading pauses.
        latest_only: Topics of which only a key's newest event is kept under backpressure.

    Attributes:
        session: The name of this run and the prefix of all its connection names.
        start_time: When this process was started.
        engine: The logic and its state; None until schemas, Kafka and the source were reachable.
        url: The source's address, recorded with the session's first input.
    """

    url: str

    def __init__(
        self,
        settings: SourceSettings,
        tracing: Tracing,
        *,
        source: str,
        topics_written: Sequence[topics.Topic],
        max_pending: int,
        latest_only: frozenset[str] = frozenset(),
    ) -> None:
        self.source = source
        self.start_time = datetime.now(UTC)
        # Time first so that sessions sort; random suffix so that names are unique.
        self.session = f"{source}/{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(3)}"
        self.engine: E | None = None
        self._settings = settings
        self._topics = (*topics_written, *_OWN_TOPICS)
        self._max_pending, self._latest_only = max_pending, latest_only
        self._traces = FrameTraces(source, tracing)
        self._registry = Registry(settings)
        self._cleanup = AsyncExitStack()
        self._recorder: FrameRecorder | None = None
        self._publisher: Publisher | None = None
        self._checkpoints: CheckpointWriter | None = None
        self._liveness: LivenessPublisher | None = None

    # Defined by each collector

    @abstractmethod
    async def open(self) -> None:
        """Open REST clients and read the source data that the start requires."""

    @abstractmethod
    async def restore(self, saved: Saved) -> Sequence[bytes]:
        """Return the payloads of the session's first inputs, which restore the positions.

        Each is recorded whole, so none may be larger than `recorder.MAX_INPUT_BYTES`.
        """

    @abstractmethod
    def create(self, ids: SchemaIds) -> tuple[E, Element | None]:
        """Return the engine, and a faster serializer of recorded messages if there is one."""

    @abstractmethod
    async def collect(self) -> None:
        """Collect until cancelled."""

    @abstractmethod
    def execute(self, command: Any) -> None:
        """Execute a command of the engine."""

    @abstractmethod
    def pause(self, paused: bool) -> None:
        """Stop reading from the source while Kafka accepts nothing, or resume reading."""

    @abstractmethod
    def coverage(self) -> Iterable[Coverage]:
        """Return all streams and whether each is covered now."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Close the connections to the source."""

    # Shared by all collectors

    @property
    def rest_connection(self) -> str:
        """Return the connection name under which REST answers and commands are recorded."""
        return f"{self.session}/0"

    @property
    def is_backed_up(self) -> bool:
        """Return whether Kafka accepts nothing at present."""
        return self._publisher is not None and self._publisher.is_backed_up

    def register(self, metrics: Metrics) -> None:
        """Store the process's metrics; `run` passes them to the objects that it creates."""
        self.metrics = metrics

    async def run(self) -> None:
        """Wait for the registry, Kafka and the source, then collect.

        Raises:
            FailedPrecondition: A schema or topic is missing.
            SettingsError: The source lacks an instrument of the settings.
            DataLoss: Kafka rejected a record.
        """
        ids = await self._schema_ids()
        producer = Producer(
            self._settings, client_id=self.source, metrics=self.metrics, config=_PRODUCER
        )
        await self._cleanup.enter_async_context(producer)
        await producer.check_topics(topic.name for topic in self._topics)
        await self.open()
        saved = await checkpoints.read(self._settings, self.source, self._settings.service_name)
        self.epoch = saved.epoch + 1
        payloads = await self.restore(saved)
        engine, element = self.create(ids)
        self._wire(engine, element, ids, producer)
        assert self._publisher is not None
        assert self._checkpoints is not None
        assert self._liveness is not None
        for payload in payloads:
            self.give(self.input(FrameKind.FRAME_KIND_CONNECT, payload, self.url))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publisher.run())
            group.create_task(producer.run())
            # Written before collecting starts, so that all later events follow this round.
            await self._checkpoints.write()
            group.create_task(self._checkpoints.run())
            group.create_task(self._liveness.run())
            group.create_task(self._wake())
            group.create_task(self.collect())

    def frame(self, frame: bytes, receive_ns: int, connection: str) -> None:
        """Process a stream message; this is the hot path."""
        engine, publisher, recorder = self.engine, self._publisher, self._recorder
        assert engine is not None
        assert publisher is not None
        assert recorder is not None
        sequence = engine.sequence
        full = recorder.message(frame, receive_ns, connection, sequence)
        events: Sequence[Outgoing] = ()
        try:
            events = engine.process(frame, receive_ns, connection)
        except BaseException:
            # Recorded and counted even after an error, so that the archived session stays readable.
            engine.sequence = sequence + 1
            publisher.put((), full)
            raise
        traces = self._traces
        traces.wait -= 1
        if traces.wait < 0:
            events = traces.choose(events, receive_ns, connection)
        publisher.put(events, full)
        if engine.commands:
            self._execute()

    def give(self, given: Input) -> None:
        """Process any input other than a stream message."""
        engine, publisher, recorder = self.engine, self._publisher, self._recorder
        assert engine is not None
        assert publisher is not None
        assert recorder is not None
        sequence = engine.sequence
        full = recorder.add(given, sequence)
        try:
            events = engine.apply(given)
        except BaseException:
            engine.sequence = sequence + 1
            publisher.put((), full)
            raise
        publisher.put(events, full)
        if engine.commands:
            self._execute()

    def input(self, kind: FrameKind.ValueType, payload: bytes = b"", context: str = "") -> Input:
        """Return an input created by the collector, with the current time."""
        return Input(kind, self.rest_connection, time.time_ns(), payload, context)

    async def delivered(self) -> None:
        """Wait until Kafka has acknowledged every event that was queued before the call."""
        assert self._publisher is not None
        await self._publisher.delivered()

    async def remember(self, instrument: str, symbol: str, *, subscribed: bool) -> None:
        """Record a subscription change, which the next start applies."""
        assert self._checkpoints is not None
        await self._checkpoints.subscription(instrument, symbol, subscribed)

    async def close(self) -> None:
        """Close the source's connections and publish the remaining events.

        Raises:
            Unavailable: Kafka did not acknowledge all events; the next start requests them again.
        """
        try:
            await self.disconnect()
            if self._publisher is not None:
                await self._publisher.close(DRAIN_SECONDS)
                await self._last_round(self._publisher)
        finally:
            await self._cleanup.aclose()
            self._registry.close()

    async def _last_round(self, publisher: Publisher) -> None:
        assert self._checkpoints is not None
        assert self._liveness is not None
        self._liveness.publish(stopping=True)
        # The round waits for queued events, and the publisher's task no longer runs.
        sending = asyncio.create_task(publisher.run())
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._checkpoints.write()
        except TimeoutError:
            _log.warning("the last checkpoint was not acknowledged; the next start reads the tails")
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    def _wire(self, engine: E, element: Element | None, ids: SchemaIds, producer: Producer) -> None:
        by_topic = ids.ids
        self.engine = engine
        self._recorder = FrameRecorder(
            self.source, by_topic[topics.FRAMES.name], element=element, epoch=self.epoch
        )
        self._publisher = Publisher(
            producer, self._recorder, self._max_pending, self.metrics, self._latest_only
        )
        self._publisher.on_backpressure = self.pause
        writer = Writer(self.source, self._settings.service_name, self.session, self.epoch)
        self._checkpoints = CheckpointWriter(
            writer, by_topic[topics.CHECKPOINTS.name], engine, self._publisher, producer
        )
        self._liveness = LivenessPublisher(
            writer, by_topic[topics.LIVENESS.name], producer, self.coverage
        )

    def _execute(self) -> None:
        assert self.engine is not None
        commands = self.engine.commands[:]
        self.engine.commands.clear()
        for command in commands:
            self.execute(command)

    async def _wake(self) -> None:
        """Feed TICK inputs, except while Kafka accepts nothing: their requests would pile up."""
        assert self.engine is not None
        while True:
            await asyncio.sleep(TICK_SECONDS)
            deadline = self.engine.deadline
            if deadline is not None and deadline <= time.time_ns() and not self.is_backed_up:
                self.give(self.input(FrameKind.FRAME_KIND_TICK))

    async def _schema_ids(self) -> SchemaIds:
        required: dict[str, type[Message]] = {}
        for topic in self._topics:
            assert topic.message is not None
            required[topic.name] = topic.message
        backoff = Backoff(base=1.0, cap=30.0)
        while True:
            try:
                return await self._registry.resolve(required)
            except Unavailable as error:
                _log.warning("%s; retrying", error.message, extra={"reason": error.reason})
                await backoff.wait()
