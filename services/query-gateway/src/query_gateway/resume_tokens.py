"""Resume tokens of the live stream: an offset per Kafka partition, as compact opaque text.

A topic is encoded as its name, the number of its partitions, and a varint pair for each partition:
the partitions skipped and the offset. 128 partitions of three topics with 40-bit offsets take about
3,500 characters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final

from meshkit.errors import InvalidArgument

Partition = tuple[str, int]
_FORMAT: Final = b"resume/1"
_DIGEST_SIZE: Final = 6  # it only separates tokens from garbage
_MAX_TOKEN: Final = 8192
_MAX_BITS: Final = 63
_MAX_PARTITION: Final = 1 << 31


def make_token(position: Mapping[Partition, int]) -> str:
    """Return a position as opaque text."""
    body = bytearray()
    for topic, keys in groupby(sorted(position), key=lambda key: key[0]):
        partitions = list(keys)
        name = topic.encode()
        body += varint(len(name)) + name + varint(len(partitions))
        next_partition = 0
        for key in partitions:
            body += varint(key[1] - next_partition) + varint(position[key])
            next_partition = key[1] + 1
    return base64.urlsafe_b64encode(_digest(body) + body).decode().rstrip("=")


def read_token(token: str) -> dict[Partition, int]:
    """Return the position in a token.

    Raises:
        InvalidArgument: BAD_RESUME_TOKEN.
    """
    try:
        if len(token) > _MAX_TOKEN:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
        if digest != _digest(body):
            raise ValueError("digest")
        return dict(_entries(body))
    except (ValueError, IndexError, binascii.Error) as error:
        raise InvalidArgument(
            "BAD_RESUME_TOKEN",
            "resume_token is not one that this stream gave; pass the last message's resume_token "
            "unchanged, or leave it out to begin with new events",
            field="resume_token",
        ) from error


def _digest(body: bytes | bytearray) -> bytes:
    return hashlib.blake2b(_FORMAT + body, digest_size=_DIGEST_SIZE).digest()


def _entries(raw: bytes) -> Iterator[tuple[Partition, int]]:
    at = 0
    while at < len(raw):
        size, at = _read_varint(raw, at)
        if not size or at + size > len(raw):
            raise ValueError("cut off")
        topic = raw[at : at + size].decode()
        count, at = _read_varint(raw, at + size)
        partition = 0
        for _ in range(count):
            skipped, at = _read_varint(raw, at)
            offset, at = _read_varint(raw, at)
            partition += skipped
            if partition >= _MAX_PARTITION:
                raise ValueError("not a partition")
            yield (topic, partition), offset
            partition += 1


def varint(value: int) -> bytes:
    """Encode a whole number ≥ 0 as a Protobuf varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and the position after it; IndexError if it is cut off."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > _MAX_BITS:
            raise ValueError("too large")
    if value >> _MAX_BITS:
        raise ValueError("too large")
    return value, at
