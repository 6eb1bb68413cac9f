"""CQL's binary values, encoded directly from integers.

The driver's conversion uses Decimal and a tuple per user-defined type; with nine decimals a bar,
that would cost more than the fold. Source:
https://cassandra.apache.org/doc/latest/cassandra/reference/native-protocol.html (§ 6)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

_INT = Struct(">i")
_BIGINT = Struct(">q")


def integer(value: int) -> bytes:
    """Encode a CQL int."""
    return _INT.pack(value)


def bigint(value: int) -> bytes:
    """Encode a CQL bigint; a timestamp is a bigint of milliseconds."""
    return _BIGINT.pack(value)


def tinyint(value: int) -> bytes:
    """Encode a CQL tinyint."""
    return value.to_bytes(1, "big", signed=True)


def boolean(value: bool) -> bytes:
    """Encode a CQL boolean."""
    return b"\x01" if value else b"\x00"


def decimal(units: int, exponent: int) -> bytes:
    """Encode a CQL decimal: scale, then the unscaled value in the fewest two's complement bytes."""
    size = (units if units >= 0 else ~units).bit_length() // 8 + 1
    return _INT.pack(-exponent) + units.to_bytes(size, "big", signed=True)


def udt(fields: Iterable[bytes]) -> bytes:
    """Encode a user-defined type's value; a frozen one is one cell."""
    return b"".join([_INT.pack(len(value)) + value for value in fields])


def text_map(values: Mapping[str, bytes]) -> bytes:
    """Encode a map<text, …>; CQL requires the entries sorted by key."""
    parts = [_INT.pack(len(values))]
    for key, value in sorted(values.items()):
        name = key.encode()
        parts += (_INT.pack(len(name)), name, _INT.pack(len(value)), value)
    return b"".join(parts)
