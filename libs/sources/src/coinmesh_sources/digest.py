"""A digest of events that is the same whenever the same input was processed.

Per topic: each event without its receive_time, serialized anew in the order of the fields, hashed
in order for each key; then the keys' hashes in order of the keys. So neither the framing, nor the
clock at receipt, nor how instruments interleave changes it.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

from google.protobuf.message import Message

from coinmesh_contracts import framing, topics


class Digests:
    """Takes events and gives a SHA-256 per topic."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[bytes, Any]] = {}

    def add(self, topic: str, key: bytes, message: Message) -> None:
        """Take the next event of a key; its receive_time is cleared."""
        cast(Any, message).receive_time = 0
        data = message.SerializeToString(deterministic=True)
        hashes = self._keys.setdefault(topic, {})
        if key not in hashes:
            hashes[key] = hashlib.sha256()
        hashes[key].update(len(data).to_bytes(4, "big") + data)

    def hexdigest(self, topic: str) -> str:
        """The topic's digest; that of no event when there were none."""
        total = hashlib.sha256()
        for key, of_key in sorted(self._keys.get(topic, {}).items()):
            total.update(len(key).to_bytes(4, "big") + key + of_key.digest())
        return total.hexdigest()


def parse(topic: str, value: bytes) -> Message:
    """The event in a framed value of a topic."""
    message = topics.BY_NAME[topic].message
    assert message is not None
    return message.FromString(framing.split(value)[1])
