"""Checks that a batch read all records that it planned.

Spark plans a range of offsets per Kafka partition. If a range were read by two tasks, or its report
were lost, records would be lost unnoticed: the next batch begins after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

import numpy as np

from coinmesh_spark.trades import Ints
from meshkit.offsets import bounds
from meshkit.settings import KafkaSettings
from meshkit.tails import read_range, tail_consumer

GROUP: Final = "spark-kafka-source-check"
"""Kafka requires a name; no offset is committed under it."""
READ_SECONDS: Final = 30.0

Visible = Callable[[int, int, int], list[int]]
"""Partition, first offset and end → the offsets of committed records in between."""


class IncompleteReadError(Exception):
    """A batch didn't read all records that it planned; it is run again."""


def check_read(
    partition: int,
    offsets: Ints,
    start: int,
    end: int,
    visible: Visible,
    *,
    compacted: bool = False,
) -> None:
    """Check that `offsets` are all records of a partition in [start, end), in order.

    Offsets without visible records (transaction markers, aborted records) may be missing; `visible`
    is called to verify this only if some are. In a `compacted` topic, records that were read may
    have been removed since.

    Raises:
        IncompleteReadError: The records read differ.
    """
    if len(offsets) == end - start and bool((offsets == np.arange(start, end)).all()):
        return
    expected = visible(partition, start, end)
    read = offsets.tolist()
    if compacted:
        expected = sorted({*expected, *(at for at in read if start <= at < end)})
    if read != expected:
        raise IncompleteReadError(
            f"partition {partition}: the batch has the records from {start} to {end - 1}, of which "
            f"{len(expected)} can be read, but a task read {len(offsets)}{_span(offsets)}; one "
            "task must read the whole range (leave minPartitions and maxRecordsPerPartition unset)"
        )


def check_reports(
    reported: Iterable[int], starts: Mapping[int, int], ends: Mapping[int, int], visible: Visible
) -> None:
    """Check that each partition with records in its range reported once.

    Args:
        reported: The partition of each report.
        starts: Each partition's first offset of the batch.
        ends: Each partition's end.
        visible: As in `check_read`.

    Raises:
        IncompleteReadError: A partition reported twice, or not at all.
    """
    seen: set[int] = set()
    for partition in reported:
        if partition in seen:
            raise IncompleteReadError(f"two tasks read partition {partition} in one batch")
        seen.add(partition)
    for partition, end in ends.items():
        start = starts[partition]
        if end > start and partition not in seen and visible(partition, start, end):
            raise IncompleteReadError(
                f"no task reported partition {partition}, which the batch has from {start} to "
                f"{end - 1}"
            )


def visible_offsets(
    settings: KafkaSettings, topic: str, partition: int, start: int, end: int
) -> list[int]:
    """Return the offsets of committed records in [start, end), read from Kafka.

    Raises:
        Unavailable: Kafka doesn't answer.
        IncompleteReadError: Kafka has deleted part of the range: no proof is possible.
    """
    consumer = tail_consumer(settings, "spark-stream-check", {"group.id": GROUP})
    key = (topic, partition)
    try:
        batches = read_range(consumer, {key: start}, {key: end}, READ_SECONDS)
        visible = [cast(int, record.offset()) for batch in batches for record in batch]
        earliest, _ = bounds(consumer, key, READ_SECONDS)
        if earliest > start:
            raise IncompleteReadError(
                f"partition {partition}: Kafka has deleted offsets {start} to {earliest - 1}, "
                "which the batch was to read"
            )
        return visible
    finally:
        consumer.close()


def _span(offsets: Ints) -> str:
    return f" ({offsets[0]} to {offsets[-1]})" if len(offsets) else ""
