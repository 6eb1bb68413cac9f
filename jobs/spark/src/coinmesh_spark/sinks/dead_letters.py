"""Dead letters of the application: named by where the record was, so that a replay repeats them."""

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
