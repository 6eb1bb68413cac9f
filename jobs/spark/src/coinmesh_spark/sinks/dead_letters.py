"""Dead letters of the application, with ids from the record's position: a replay repeats them."""

from __future__ import annotations

import pyarrow as pa

from coinmesh_archive import arrow_types as arrow
from coinmesh_contracts import dead_letters

TOPIC = dead_letters.TOPIC


def dead_letter(
    topic: str,
    records: arrow.RecordBatch | arrow.Table,
    row: int,
    *,
    reason: str,
    detail: str,
    reporter: str,
) -> tuple[bytes | None, bytes]:
    """Return key and message of a record's dead letter, the latter without framing.

    Args:
        topic: The record's topic.
        records: Records with partition, offset, timestamp, key and value.
        row: Row of the record.
        reason: The reason, as a code.
        detail: The reason, for people.
        reporter: The job that rejects the record.
    """
    partition, offset = records.column("partition")[row].as_py(), records.column("offset")[row]
    key, value = records.column("key")[row].as_py(), records.column("value")[row].as_py()
    message = dead_letters.of_record(
        topic=topic,
        partition=partition,
        offset=offset.as_py(),
        receive_time=records.column("timestamp")[row].cast(pa.int64()).as_py() * 1000,
        key=key,
        value=value,
        reason=reason,
        detail=detail,
        reporter=reporter,
    )
    return dead_letters.record_key(message), message.SerializeToString()
