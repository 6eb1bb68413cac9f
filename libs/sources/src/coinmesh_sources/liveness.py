"""Liveness: the streams that a collector covers now, published every second.

Without it, consumers can't distinguish "no gap" from "not collected". A stream's last receive time
is the time of the last publication before which it had new input, so its precision is one second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.liveness_pb2 import ChannelLiveness, CoverageState, Liveness
from coinmesh_sources.inputs import Writer
from meshkit.producer import Producer

_log = logging.getLogger(__name__)

SECONDS: Final = 1.0
VALID_SECONDS: Final = 5
DOWN: Final = CoverageState.COVERAGE_STATE_DOWN


@dataclass(frozen=True, slots=True)
class Coverage:
    """The state of one stream now.

    Attributes:
        channel: As in Gap.
        instrument: The instrument, or the source's own stream name.
        inputs: Number of inputs of the stream so far.
        state: Whether the stream is covered.
    """

    channel: str
    instrument: str
    inputs: int
    state: CoverageState.ValueType


class LivenessPublisher:
    """Publishes the coverage of a collector; `run` is a background task.

    Args:
        writer: Identity of this run; the collector's name is the record's key.
        schema_id: The registry's id of the topic's schema.
        producer: The producer.
        coverage: Returns all streams, including those that are down.
    """

    def __init__(
        self,
        writer: Writer,
        schema_id: int,
        producer: Producer,
        coverage: Callable[[], Iterable[Coverage]],
    ) -> None:
        self._writer = writer
        self._header = framing.header(schema_id)
        self._producer, self._coverage = producer, coverage
        self._last: dict[tuple[str, str], tuple[int, int]] = {}

    async def run(self) -> None:
        """Publish every second until cancelled."""
        while True:
            self.publish()
            await asyncio.sleep(SECONDS)

    def publish(self, *, stopping: bool = False) -> None:
        """Queue one record, or none while the producer has no room: it would be outdated.

        Args:
            stopping: Report all streams as down.
        """
        value = self._header + self._liveness(stopping).SerializeToString()
        try:
            self._producer.produce_nowait(
                topics.LIVENESS.name, self._writer.collector.encode(), value
            )
        except BufferError:
            _log.debug("no room for a liveness record")

    def _liveness(self, stopping: bool) -> Liveness:
        now = time.time_ns()
        channels: dict[str, ChannelLiveness] = {}
        for each in self._coverage():
            key = each.channel, each.instrument
            inputs, at = self._last.get(key, (0, 0))
            if each.inputs != inputs:
                at = now // 1000
                self._last[key] = each.inputs, at
            channel = channels.setdefault(each.channel, ChannelLiveness(channel=each.channel))
            channel.instruments.append(each.instrument)
            channel.last_receive_times.append(at)
            channel.states.append(DOWN if stopping else each.state)
        return Liveness(
            event_id=f"{self._writer.source}:liveness:{self._writer.session}:{now // 10**9}",
            receive_time=now,
            source=self._writer.source,
            type=EventType.EVENT_TYPE_LIVENESS,
            collector=self._writer.collector,
            session=self._writer.session,
            channels=channels.values(),
            valid_seconds=VALID_SECONDS,
            epoch=self._writer.epoch,
        )
