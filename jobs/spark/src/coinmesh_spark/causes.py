"""Extracts the cause of a failure from layers of Spark's and Python's traces."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 1000
_LOSS: Final = re.compile(r"KAFKA_DATA_LOSS|Some data may have been lost because they are not")
_REPARTITIONED: Final = re.compile(r"KAFKA_DATA_LOSS\.(ADDED_PARTITION|PARTITIONS_DELETED)")
_LOSS_REASON: Final = re.compile(r"Reason:\s*([^\n]+)")
RESET: Final = (
    "the fold can't go on without them: stop spark-stream, run `coinmesh-spark reset` and start it "
    "again, to fold the topic from the first record that Kafka has (it is refused after a change "
    "of the partition count: see jobs/spark/README.md); bars of the deleted trades stay as they are"
)


def cause(text: str, brokers: str) -> str:
    """Return the cause in the text of an exception; Kafka's are preceded by the `brokers`."""
    for pattern in (
        # An exception of this project, raised in a worker or in the driver.
        r"^((?:coinmesh|meshkit)[\w.]*: .*)$",
        r"Job aborted due to stage failure:.*?: ((?:[a-z]+\.)+\w+: .*)$",
        r"^((?:[a-zA-Z_]\w*\.)*\w*(?:Error|Exception): (?!An exception was thrown from).*)$",
    ):
        if match := re.search(pattern, text, re.MULTILINE):
            text = match[1]
            break
    if text.startswith("org.apache.kafka."):
        text = f"Kafka at {brokers}: {text}"
    return text[:_LONGEST]


def fold_cause(text: str, brokers: str) -> str:
    """Return the cause for the bars' query, with the remedy if Kafka lost its next records."""
    if _LOSS.search(text) is None or _REPARTITIONED.search(text) is not None:
        return cause(text, brokers)
    reason = _LOSS_REASON.search(text)
    detail = f" ({reason[1].strip()[:300]})" if reason else ""
    return f"Kafka at {brokers} has deleted records before they were read{detail}; {RESET}"
