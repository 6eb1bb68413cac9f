"""Anchors: the heads of all audit chains at a time, signed and stored immutably.

An anchor is an object of two lines: a JSON document and its signature (Ed25519, by Vault's transit
engine) over exactly that line's bytes. Documents are numbered from 1 and contain the hash of the
previous one, so a missing document is detected.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coinmesh_audit.chain import Anchored, Head

PREFIX = "audit/"
KEY = "audit"
"""The signing key's name in Vault."""


class AnchorError(Exception):
    """An anchor is invalid; the message contains the reason."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One anchor.

    Attributes:
        anchored: Number, time and heads.
        previous: SHA-256 of the previous document, 64 hexadecimal digits; "" for the first.
        offset: The offset after the last record that it covers.
        hash: SHA-256 of its own document, 64 hexadecimal digits.
    """

    anchored: Anchored
    previous: str
    offset: int
    hash: str


def object_name(number: int) -> str:
    """Return the key of an anchor's object."""
    return f"{PREFIX}{number:012d}.json"


def document(
    number: int, time: datetime, heads: Mapping[str, Head], offset: int, previous: str
) -> bytes:
    """Return the bytes to sign."""
    content = {
        "number": number,
        "time": time.astimezone(UTC).isoformat(timespec="milliseconds"),
        "previous": previous,
        "offset": offset,
        "heads": {
            writer: {"sequence": head.sequence, "hash": head.hash.hex()}
            for writer, head in sorted(heads.items())
        },
    }
    return json.dumps(content, separators=(",", ":")).encode()


def seal(signed: bytes, signature: str) -> bytes:
    """Return the object of a document and its signature (`vault:v<key version>:<base64>`)."""
    return signed + b"\n" + signature.encode() + b"\n"


def open_sealed(data: bytes, keys: Mapping[int, bytes]) -> Anchor:
    """Read an anchor's object and check its signature.

    Args:
        data: The object's bytes.
        keys: Public keys (32 bytes) by version.

    Raises:
        AnchorError: It isn't an anchor, or its signature is invalid.
    """
    lines = data.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise AnchorError("it isn't a document and a signature")
    signed, signature = lines[0], lines[1].decode(errors="replace")
    prefix, _, encoded = signature.rpartition(":")
    version = prefix.removeprefix("vault:v")
    key = keys.get(int(version)) if version.isascii() and version.isdecimal() else None
    if key is None:
        raise AnchorError(f"Vault has no key {version[:20]!r} to check its signature with")
    try:
        raw = base64.b64decode(encoded, validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(raw, signed)
    except (binascii.Error, ValueError, InvalidSignature) as error:
        raise AnchorError("its signature doesn't hold") from error
    return _parse(signed)


def _parse(signed: bytes) -> Anchor:
    try:
        content = cast(dict[str, Any], json.loads(signed))
        heads = {
            str(writer): Head(int(head["sequence"]), bytes.fromhex(head["hash"]))
            for writer, head in content["heads"].items()
        }
        time = datetime.fromisoformat(content["time"])
        anchored = Anchored(int(content["number"]), time, heads)
        digest = hashlib.sha256(signed).hexdigest()
        return Anchor(anchored, str(content["previous"]), int(content["offset"]), digest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AnchorError(f"its document can't be read: {error}") from error


def broken_links(anchors: Iterable[Anchor]) -> Iterator[str]:
    """Yield descriptions of faults in a run of anchors: missing ones, and broken links.

    The oldest may have expired, so the first one present needs no predecessor.
    """
    before: Anchor | None = None
    for anchor in sorted(anchors, key=lambda each: each.anchored.number):
        number = anchor.anchored.number
        if before is not None and number != before.anchored.number + 1:
            yield f"anchors {before.anchored.number + 1} to {number - 1} are missing"
        elif before is not None and anchor.previous != before.hash:
            yield f"anchor {number} doesn't follow anchor {number - 1}: one of them was replaced"
        elif before is None and number == 1 and anchor.previous:
            yield "anchor 1 names a predecessor"
        before = anchor
