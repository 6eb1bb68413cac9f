"""Confluent's wire framing for Protobuf.

A framed value is `0x00 | schema id, int32 big-endian | 0x00 | payload`. The last header byte is the
message index list `[0]`: every event is the first message of its file (a test checks the
contracts), so the header always has 6 bytes.

Source:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/#wire-format
"""

from __future__ import annotations

from typing import Final

HEADER_SIZE: Final = 6


class FramingError(ValueError):
    """A value is not framed correctly; `reason` is the reason of the dead letter."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def header(schema_id: int) -> bytes:
    """Return the header of every value written with a schema; computed once and prepended.

    Raises:
        ValueError: The id is not in [1, 2^31).
    """
    if not 0 < schema_id < 1 << 31:
        raise ValueError(f"schema id {schema_id} is not in [1, 2^31)")
    return b"\x00" + schema_id.to_bytes(4, "big") + b"\x00"


def split(value: bytes | None) -> tuple[int, bytes]:
    """Split a framed value into its schema id and payload.

    Raises:
        FramingError: The value is absent, too short, has another magic byte, or specifies a message
            that is not the first of its file.
    """
    if value is None or len(value) < HEADER_SIZE:
        raise FramingError("NOT_FRAMED", f"{len(value or b'')} bytes cannot hold a framing header")
    if value[0] != 0:
        raise FramingError("BAD_MAGIC", f"the first byte is {value[0]:#04x}, not 0x00")
    if value[5] != 0:
        raise FramingError("BAD_MESSAGE_INDEX", "the value is not its schema's first message")
    return int.from_bytes(value[1:5], "big"), value[HEADER_SIZE:]
