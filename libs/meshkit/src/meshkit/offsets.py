"""Start positions of a consumer of assigned partitions, as offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import confluent_kafka
from confluent_kafka import TopicPartition

REQUEST_SECONDS = 10.0

Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Tail:
    """Start at the last `count` records of each partition."""

    count: int


@dataclass(frozen=True, slots=True)
class Since:
    """Start at the first record appended at `time` or later."""

    time: datetime


Start = Literal["beginning", "end"] | Tail | Since | Mapping[Partition, int]


def bounds(
    consumer: confluent_kafka.Consumer, key: Partition, timeout: float = REQUEST_SECONDS
) -> tuple[int, int]:
    """Query the first offset of a partition and the offset after its last."""
    return consumer.get_watermark_offsets(TopicPartition(*key), timeout=timeout)


def offsets(
    consumer: confluent_kafka.Consumer, keys: list[Partition], start: Start
) -> dict[Partition, int]:
    """Resolve `start` to current offsets by partition, so that no record is skipped afterwards."""
    if isinstance(start, Mapping):
        return {key: start[key] for key in keys}
    if isinstance(start, Since):
        asked = [TopicPartition(*key, int(start.time.timestamp() * 1000)) for key in keys]
        found = consumer.offsets_for_times(asked, timeout=REQUEST_SECONDS)
        # -1 (the end) if no record is that new.
        return {
            (place.topic, place.partition): place.offset
            if place.offset >= 0
            else bounds(consumer, (place.topic, place.partition))[1]
            for place in found
        }
    ends = {key: bounds(consumer, key) for key in keys}
    if start == "beginning":
        return {key: low for key, (low, _) in ends.items()}
    count = 0 if start == "end" else start.count
    return {key: max(low, high - count) for key, (low, high) in ends.items()}
