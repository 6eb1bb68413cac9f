"""Which data is current: what collectors cover by their newest record of ingest.liveness.v1.

A quiet instrument on a live connection is current; one whose collector stopped is not, however
young its last event is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from coinmesh_contracts.events.v1.liveness_pb2 import COVERAGE_STATE_LIVE, Liveness

VALID_SECONDS: Final = 5
"""How long a record holds that states no time itself."""


class _Covered(NamedTuple):
    epoch: int
    until_ns: int
    live: dict[str, frozenset[str]]


class Coverage:
    """The newest record of each collector.

    Args:
        clock: The time now in nanoseconds since the Unix epoch.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._collectors: dict[str, _Covered] = {}

    def apply(self, record: Liveness, appended_ms: int) -> None:
        """Take the next record of the topic; one of an outdated writer is ignored.

        A writer is outdated while the record of a later one holds. Epochs begin anew when the topic
        that they are counted in is created again.

        The older of the collector's and Kafka's time counts. A record that waited in the collector
        is old although it was appended now, and a collector whose clock is ahead must not be taken
        as current after it has stopped.
        """
        current = self._collectors.get(record.collector)
        if (
            current is not None
            and record.epoch < current.epoch
            and current.until_ns >= self._clock()
        ):
            return
        since_ns = min(record.receive_time, appended_ms * 1_000_000)
        seconds = record.valid_seconds or VALID_SECONDS
        live = {
            channel.channel: frozenset(
                name
                for name, state in zip(channel.instruments, channel.states, strict=False)
                if state == COVERAGE_STATE_LIVE
            )
            for channel in record.channels
        }
        self._collectors[record.collector] = _Covered(
            record.epoch, since_ns + seconds * 1_000_000_000, live
        )

    def is_stale(self, instrument: str, channels: Iterable[str]) -> bool:
        """Whether no collector covers one of the instrument's channels now."""
        now_ns = self._clock()
        current = [covered for covered in self._collectors.values() if covered.until_ns >= now_ns]
        return not all(
            any(instrument in covered.live.get(channel, ()) for covered in current)
            for channel in channels
        )
