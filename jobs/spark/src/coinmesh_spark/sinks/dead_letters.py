"""Dead letters of the application: named by where the record was, so that a replay repeats them."""

from __future__ import annotations

import pyarrow as pa

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.dead_letter_pb2 import DeadLetter
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_DEAD_LETTER

TOPIC = topics.DEAD_LETTERS.name


def dead_letter(
    topic: str,
    records: pa.RecordBatch | pa.Table,
    row: int,
    *,
    reason: str,
    detail: str,
    reporter: str,
) -> tuple[bytes | None, bytes]:
    """Key and message of the dead letter of a record, the latter without framing.

    Args:
        topic: Where the record is from.
        records: Records with partition, offset, timestamp, key and value.
        row: Which of them.
        reason: Why, as a code.
        detail: Why, for people.
        reporter: Who gives it up.
    """
    partition, offset = records.column("partition")[row].as_py(), records.column("offset")[row]
    key, value = records.column("key")[row].as_py(), records.column("value")[row].as_py()
    keyed = topics.BY_NAME[topic].key == "instrument"
    letter = DeadLetter(
        event_id=f"dlq:{topic}:{partition}:{offset.as_py()}",
        receive_time=records.column("timestamp")[row].cast(pa.int64()).as_py() * 1000,
        source=reporter,
        type=EVENT_TYPE_DEAD_LETTER,
        instrument=(key or b"").decode("utf-8", "replace") if keyed else "",
        origin_topic=topic,
        origin_partition=partition,
        origin_offset=offset.as_py(),
        reason=reason,
        detail=detail,
        key=key,
        value=value or b"",
        reporter=reporter,
    )
    return key, letter.SerializeToString()
