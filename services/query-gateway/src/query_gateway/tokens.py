"""Page tokens: the position of the next page, bound to the listing's method and arguments.

A token is self-contained, so every replica accepts every replica's tokens
(https://google.aip.dev/158). It contains no secret and grants no access; the digest only detects
invalid tokens.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Final, TypeAlias, cast

import orjson

from meshkit.errors import InvalidArgument

Position: TypeAlias = list[int | str]
_DIGEST_SIZE: Final = 9  # with it the base64 text of the prefix has no padding
_MAX_SIZE: Final = 1024


def make(method: str, arguments: tuple[object, ...], position: Position) -> str:
    """Return the token for the page that continues at `position`."""
    body = orjson.dumps(position)
    return base64.urlsafe_b64encode(_digest(method, arguments, body) + body).decode().rstrip("=")


def read(
    token: str, method: str, arguments: tuple[object, ...], shape: tuple[type, ...]
) -> Position:
    """Return the position in a token, whose items have the types `shape`.

    Raises:
        InvalidArgument: BAD_PAGE_TOKEN: it is invalid, or of another method or other arguments.
    """
    try:
        if len(token) > _MAX_SIZE:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
        if digest != _digest(method, arguments, body):
            raise ValueError("digest")
        position: object = orjson.loads(body)
    except (ValueError, binascii.Error) as error:
        raise _bad() from error
    if not isinstance(position, list) or tuple(map(type, cast(Position, position))) != shape:
        raise _bad()
    return cast(Position, position)


def _digest(method: str, arguments: tuple[object, ...], body: bytes) -> bytes:
    # Not orjson: distant times in nanoseconds exceed its 64 bits.
    head = json.dumps([method, *arguments]).encode()
    return hashlib.blake2b(head + b"\0" + body, digest_size=_DIGEST_SIZE).digest()


def _bad() -> InvalidArgument:
    return InvalidArgument(
        "BAD_PAGE_TOKEN",
        "page_token is not one that this listing gave; pass next_page_token back unchanged with "
        "the same other arguments, or leave it out to begin again",
        field="page_token",
    )
