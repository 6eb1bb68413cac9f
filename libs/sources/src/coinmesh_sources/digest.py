"""A digest of events that is identical whenever the same input is processed.

For each topic: every event without its receive_time is serialized again in field order and hashed
in order for its key; then the hashes are combined in the order of the keys. The framing, the
receive time and the interleaving of instruments therefore don't change the digest.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

from google.protobuf.message import Message

from coinmesh_contracts import framing, topics


class Digests:
    """Computes a SHA-256 per topic from the events added."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[bytes, Any]] = {}

    def add(self, topic: str, key: bytes, message: Message) -> None:
        """Add the next event of a key; clears its receive_time."""
        cast(Any, message).receive_time = 0
        data = message.SerializeToString(deterministic=True)
        hashes = self._keys.setdefault(topic, {})
        if key not in hashes:
            hashes[key] = hashlib.sha256()
        hashes[key].update(len(data).to_bytes(4, "big") + data)

    def hexdigest(self, topic: str) -> str:
        """Return the topic's digest; the digest of an empty input if there were no events."""
        total = hashlib.sha256()
        for key, of_key in sorted(self._keys.get(topic, {}).items()):
            total.update(len(key).to_bytes(4, "big") + key + of_key.digest())
        return total.hexdigest()


def parse(topic: str, value: bytes) -> Message:
    """Return the event in a framed value of a topic."""
    message = topics.BY_NAME[topic].message
    assert message is not None
    return message.FromString(framing.split(value)[1])
