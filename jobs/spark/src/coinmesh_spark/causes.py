"""The line that names what went wrong, out of layers of Spark's and Python's traces."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 1000


def cause(text: str, brokers: str) -> str:
    """The cause in the text of an exception; Kafka's are preceded by the `brokers`."""
    for pattern in (
        # An exception of ours, raised in a worker or in the driver.
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
