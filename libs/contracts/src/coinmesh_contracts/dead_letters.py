"""Dead letters: rejected records and inputs, small enough for their topic.

The only place that builds a `DeadLetter`. Its id is derived from the position of the input, so that
a repeated attempt produces the same dead letter.
"""

from __future__ import annotations

from typing import Final

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_DEAD_LETTER

TOPIC: Final = topics.DEAD_LETTERS.name
MAX_DETAIL: Final = 500
# A key is in the dead letter, in its record's key and, as text of up to three times the size, in
# `instrument`. With the longest value the total is half a megabyte below the topic's limit.
MAX_KEY_BYTES: Final = 64 << 10
MAX_VALUE_BYTES: Final = topics.MAX_MESSAGE_BYTES - (512 << 10)


def of_record(
    *,
    topic: str,
    partition: int,
    offset: int,
    receive_time: int,
    key: bytes | None,
    value: bytes | None,
    reason: str,
    detail: str,
    reporter: str,
) -> DeadLetter:
    """Return the dead letter of a record of a topic.

    Args:
        topic: The record's topic.
        partition: Its partition.
        offset: Its offset.
        receive_time: When Kafka appended it, in nanoseconds since the Unix epoch.
        key: Its key.
        value: Its value.
        reason: The reason of the rejection, as an UPPER_SNAKE_CASE code.
        detail: A one-line description for people.
        reporter: The service or job that rejects it.
    """
    contract = topics.BY_NAME.get(topic)
    dead_letter = _build(key, value or b"", reason, detail, reporter)
    if contract is not None and contract.key == "instrument":
        dead_letter.instrument = dead_letter.key.decode("utf-8", "replace")
    dead_letter.event_id = f"dlq:{topic}:{partition}:{offset}"
    dead_letter.source = reporter
    dead_letter.receive_time = receive_time
    dead_letter.origin_topic = topic
    dead_letter.origin_partition, dead_letter.origin_offset = partition, offset
    return dead_letter


def of_input(
    *,
    origin: str,
    source: str,
    receive_time: int,
    value: bytes,
    reason: str,
    detail: str,
    reporter: str,
    instrument: str = "",
    symbol: str = "",
) -> DeadLetter:
    """Return the dead letter of input that never reached a topic.

    Args:
        origin: The connection of the input and its sequence number there.
        source: The venue or provider.
        receive_time: When it was received, in nanoseconds since the Unix epoch.
        value: The input as received.
        reason: The reason of the rejection, as an UPPER_SNAKE_CASE code.
        detail: A one-line description for people.
        reporter: The service that rejects it.
        instrument: The instrument concerned, if known.
        symbol: The venue's symbol, if known.
    """
    dead_letter = _build(None, value, reason, detail, reporter)
    dead_letter.event_id = f"dlq:{origin}"
    dead_letter.source = source
    dead_letter.receive_time = receive_time
    dead_letter.instrument, dead_letter.symbol = instrument, symbol
    dead_letter.origin_partition = dead_letter.origin_offset = -1
    dead_letter.metadata["origin"] = origin
    return dead_letter


def record_key(dead_letter: DeadLetter) -> bytes | None:
    """Return the key with which a record's dead letter is produced: the record's own."""
    return dead_letter.key if dead_letter.HasField("key") else None


def _build(key: bytes | None, value: bytes, reason: str, detail: str, reporter: str) -> DeadLetter:
    return DeadLetter(
        type=EVENT_TYPE_DEAD_LETTER,
        reason=reason,
        detail=" ".join(detail.split())[:MAX_DETAIL],
        key=None if key is None else key[:MAX_KEY_BYTES],
        value=value[:MAX_VALUE_BYTES],
        reporter=reporter,
        truncated=len(value) > MAX_VALUE_BYTES or len(key or b"") > MAX_KEY_BYTES,
    )
