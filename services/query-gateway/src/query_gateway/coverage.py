"""Staleness of data: the collectors' coverage from their newest record of ingest.liveness.v1.

A quiet instrument on a live connection is current. An instrument is stale if its collector stopped,
regardless of the age of its last event, or if this replica reads its partition too slowly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import murmur2

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.liveness_pb2 import COVERAGE_STATE_LIVE, Liveness

VALID_SECONDS: Final = 5
"""Validity of a record that specifies none, and the maximum lag of a partition."""
_TOPICS: Final = {
    "trade": topics.TRADES.name,
    "quote": topics.QUOTES.name,
    "book": topics.BOOKS.name,
}


class _Covered(NamedTuple):
    epoch: int
    until_ns: int
    live: dict[str, frozenset[str]]


class Coverage:
    """The newest record of each collector.

    Args:
        clock: Returns the time in nanoseconds since the Unix epoch.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._collectors: dict[str, _Covered] = {}
        self._partitions: dict[str, int] = {}
        self._late: frozenset[tuple[str, int]] = frozenset()
        self._behind: frozenset[tuple[str, int]] = frozenset()

    def apply(self, record: Liveness, appended_ms: int) -> None:
        """Apply the next record of the topic; ignore a record of an outdated writer.

        A writer is outdated while the record of a later writer is valid. Epochs restart if the
        topic in which they are counted is recreated.

        The older of the collector's and Kafka's time is used: a record that waited in the collector
        is old although it was appended now, and a collector whose clock is ahead must not count as
        current after it has stopped.
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

    def take_lags(self, lags: Mapping[tuple[str, int], float]) -> None:
        """Update this replica's lag, about once a second.

        Args:
            lags: By partition, the age in seconds of the newest record read if there are newer
                ones, else 0. It counts only if it was too great in the previous call, too: the
                record before one that is being fetched may be hours old.
        """
        late = frozenset(key for key, seconds in lags.items() if seconds > VALID_SECONDS)
        self._late, self._behind = late, late & self._late
        self._partitions.clear()
        for topic, _ in lags:
            self._partitions[topic] = self._partitions.get(topic, 0) + 1

    def _is_behind(self, instrument: str, channel: str) -> bool:
        topic = _TOPICS.get(channel, "")
        count = self._partitions.get(topic, 0)
        return count > 0 and (topic, murmur2(instrument.encode(), count)) in self._behind

    def is_stale(self, instrument: str, channels: Iterable[str]) -> bool:
        """Return whether a channel of the instrument lacks coverage or is read late."""
        if self._behind and any(self._is_behind(instrument, channel) for channel in channels):
            return True
        now_ns = self._clock()
        current = [covered for covered in self._collectors.values() if covered.until_ns >= now_ns]
        return not all(
            any(instrument in covered.live.get(channel, ()) for covered in current)
            for channel in channels
        )
