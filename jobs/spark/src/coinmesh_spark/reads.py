"""Whether a batch read all that it planned.

Spark plans a range of offsets per Kafka partition. A range that is read by two tasks, or whose
report is lost, would otherwise be a loss that nothing shows: the next batch begins after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from coinmesh_spark.trades import Ints
from meshkit.errors import Unavailable
from meshkit.kafka import client_config, client_log
from meshkit.settings import KafkaSettings

GROUP: Final = "spark-kafka-source-check"
"""Kafka wants a name; no offset is committed under it."""
READ_SECONDS: Final = 30.0

Visible = Callable[[int, int, int], list[int]]
"""Partition, first offset and end → the offsets in between that hold committed records."""


class IncompleteReadError(Exception):
    """A batch didn't read all that it planned; it is run again."""


def check_read(partition: int, offsets: Ints, start: int, end: int, visible: Visible) -> None:
    """Check that `offsets` are all records of a partition in [start, end), in order.

    Offsets that Kafka doesn't give out (transaction markers, aborted records) may lack; `visible`
    is called to prove it only when some do.

    Raises:
        IncompleteReadError: Others were read.
    """
    if len(offsets) == end - start and bool((offsets == np.arange(start, end)).all()):
        return
    expected = visible(partition, start, end)
    if offsets.tolist() != expected:
        raise IncompleteReadError(
            f"partition {partition}: the batch has the records from {start} to {end - 1}, of which "
            f"{len(expected)} can be read, but a task read {len(offsets)}{_span(offsets)}; one "
            "task must read the whole range (leave minPartitions and maxRecordsPerPartition unset)"
        )


def check_reports(
    reported: Iterable[int], starts: Mapping[int, int], ends: Mapping[int, int], visible: Visible
) -> None:
    """Check that each partition that has records in its range reported once.

    Args:
        reported: The partition of each report.
        starts: Each partition's first offset of the batch.
        ends: Each partition's end.
        visible: As in `check_read`.

    Raises:
        IncompleteReadError: One reported twice, or not at all.
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
    """The offsets in [start, end) that hold committed records, read from Kafka.

    Raises:
        Unavailable: Kafka doesn't answer.
    """
    consumer = Consumer(
        {
            **client_config(settings, "spark-stream-check"),
            "group.id": GROUP,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
        },
        logger=client_log(),
    )
    deadline = time.monotonic() + READ_SECONDS
    found: list[int] = []
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        while time.monotonic() < deadline:
            for message in consumer.consume(10_000, 1.0):
                if _at(message) >= end:
                    return found
                if message.error() is None:
                    found.append(_at(message))
    except KafkaException as error:
        raise _unavailable(settings, str(error)) from error
    finally:
        consumer.close()
    raise _unavailable(settings, f"{topic}-{partition} can't be read up to {end}")


def _at(message: Message) -> int:
    """A record's offset, or where the partition ends."""
    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        raise KafkaException(error)
    offset = message.offset()
    return -1 if offset is None else offset


def _unavailable(settings: KafkaSettings, detail: str) -> Unavailable:
    return Unavailable(
        "KAFKA_UNAVAILABLE", f"Kafka at {settings.kafka_bootstrap_servers}: {detail}"
    )


def _span(offsets: Ints) -> str:
    return f" ({offsets[0]} to {offsets[-1]})" if len(offsets) else ""
