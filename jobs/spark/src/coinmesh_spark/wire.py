"""Protobuf fields of many messages at once with NumPy: all advance together, field by field.

Messages of one producer have their fields in the same order, so each step reads one tag for all of
them, then one value for all of them. An irregular message (another order of fields, a repeated or
nested field, a length beyond its end, a string that isn't ASCII) is left out, and the caller parses
it separately: this is a fast path, it never decides that a message is invalid. Whether a message is
regular depends on itself alone. It costs a quarter of creating message objects.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

VARINT: Final = 0
LENGTH: Final = 2
_MAX_FIELDS: Final = 64
_MAX_VARINT: Final = 10

Longs = NDArray[np.int64]
Bits = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Fields:
    """The fields that were read.

    Attributes:
        regular: Which messages were read completely; the others' values are undefined.
        varints: Each requested field's raw value by field number, 0 if absent.
        begins: Start of each string in the data, by field number.
        lengths: Its length, 0 if absent.
    """

    regular: NDArray[np.bool_]
    varints: Mapping[int, Bits]
    begins: Mapping[int, Longs]
    lengths: Mapping[int, Longs]


def zigzag(value: Bits) -> Longs:
    """Decode the signed numbers of sint fields."""
    return (value >> np.uint64(1)).astype(np.int64) ^ -(value & np.uint64(1)).astype(np.int64)


def read(
    data: Bytes, begin: Longs, end: Longs, numbers: frozenset[int], strings: frozenset[int]
) -> Fields:
    """Read the messages data[begin:end].

    Args:
        data: The messages' bytes, with at least `_MAX_VARINT` more after the last message.
        begin: Start of each message.
        end: End of each message.
        numbers: Numbers of the requested varint fields.
        strings: Numbers of the string fields that a message may have.
    """
    count = len(begin)
    varints = {number: np.zeros(count, np.uint64) for number in numbers}
    begins = {number: np.zeros(count, np.int64) for number in strings}
    lengths = {number: np.zeros(count, np.int64) for number in strings}
    regular = begin <= end
    high = np.concatenate([[0], np.cumsum(data >= 0x80, dtype=np.int64)])
    at = begin.astype(np.int64)
    last = 0
    everyone = np.arange(count)
    for _ in range(_MAX_FIELDS):
        unfinished = regular & (at < end)
        left = everyone if unfinished.all() else np.flatnonzero(unfinished)
        if not len(left):
            return Fields(regular, varints, begins, lengths)
        # The lowest next tag of any message; messages without it wait. Tags of one byte suffice.
        tags = data[at[left]]
        tag = int(tags.min())
        number, kind = tag >> 3, tag & 7
        here = left if (tags == tag).all() else left[tags == tag]
        if number <= last or tag & 0x80 or not _readable(kind, number, strings):
            regular[here] = False
            continue
        last = number
        position, limit = (at, end) if here is everyone else (at[here], end[here])
        value, after = _varint(data, position + 1)
        inside = after <= limit
        if kind == LENGTH:
            length = value.astype(np.int64)
            inside &= (length >= 0) & (length <= limit - after)
            first = np.where(inside, after, 0)
            after = first + np.where(inside, length, 0)
            inside &= high[after] == high[first]
            begins[number][here], lengths[number][here] = first, length
        elif number in numbers:
            varints[number][here] = value
        if not inside.all():
            regular[here[~inside]] = False
        if here is everyone:
            at = after
        else:
            at[here] = after
    regular[at < end] = False
    return Fields(regular, varints, begins, lengths)


def _readable(kind: int, number: int, strings: frozenset[int]) -> bool:
    return number > 0 and (kind == VARINT or (kind == LENGTH and number in strings))


def _varint(data: Bytes, at: Longs) -> tuple[Bits, Longs]:
    """Return the varints at positions and their ends; an endless one ends beyond all data."""
    byte = data[at]
    value = (byte & 0x7F).astype(np.uint64)
    after = at + 1
    shift = 7
    # Most varints of a field have equal length: while all continue, no selection is needed.
    while shift < 7 * _MAX_VARINT and bool((byte & 0x80).all()):
        byte = data[after]
        value |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
        after += 1
        shift += 7
    more = np.flatnonzero(byte & 0x80)
    while len(more):
        if shift >= 7 * _MAX_VARINT:
            after[more] = np.iinfo(np.int64).max
            break
        byte = data[after[more]]
        value[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
        after[more] += 1
        more = more[(byte & 0x80) != 0]
        shift += 7
    return value, after
