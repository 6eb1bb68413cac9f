"""The Schema Registry: ids of the schemas of this build, resolved at start, and ids of received
ones.

Only the deploy step registers schemas. A service whose schema isn't registered doesn't start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from coinmesh_contracts import framing
from coinmesh_contracts.sources import proto_text
from meshkit import schema_text
from meshkit.errors import FailedPrecondition
from meshkit.registry_client import RegistryClient
from meshkit.settings import RegistrySettings

_log = logging.getLogger(__name__)
T = TypeVar("T")

# Time for which a rejected id isn't looked up again, so that invalid ids don't load the registry.
REJECTED_SECONDS = 5.0
MAX_REJECTED = 1_000
DEPLOY = "coinmesh deploy schemas"


class SchemaNotRegistered(FailedPrecondition):
    """A subject isn't in the registry."""

    def __init__(self, subject: str, url: str) -> None:
        super().__init__(
            "SCHEMA_NOT_REGISTERED",
            f"the registry at {url} has no subject {subject}; register it with: {DEPLOY}",
            subject=subject,
        )


class SchemaMismatch(FailedPrecondition):
    """The registered contract contradicts the contract of this build."""

    def __init__(self, subject: str, differences: list[str]) -> None:
        super().__init__(
            "SCHEMA_MISMATCH",
            f"{subject} in the registry contradicts this build ({'; '.join(differences)}); "
            f"deploy the build that matches, or register this one with: {DEPLOY}",
            subject=subject,
        )


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """The schema ids with which this process writes, by topic."""

    ids: Mapping[str, int]

    def header(self, topic: str) -> bytes:
        """Return the six-byte prefix of every value of `topic`."""
        return framing.header(self.ids[topic])


class Registry:
    """The ids of schemas, resolved and accepted; usable from any thread."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a registry; `transport`, `sleep` and `clock` are for tests."""
        self._client = RegistryClient(settings, transport=transport, sleep=sleep)
        self._clock = clock
        self._accepted: set[tuple[str, int]] = set()
        self._rejected_until: dict[tuple[str, int], float] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def resolve(self, subjects: Mapping[str, type[Message]]) -> SchemaIds:
        """Resolve as `resolve_now`, without blocking the event loop."""
        return await asyncio.to_thread(self.resolve_now, subjects)

    async def accepts(self, topic: str, schema_id: int) -> bool:
        """Check as `accepts_now`, without blocking the event loop."""
        if (topic, schema_id) in self._accepted:
            return True
        return await asyncio.to_thread(self.accepts_now, topic, schema_id)

    def resolve_now(self, subjects: Mapping[str, type[Message]]) -> SchemaIds:
        """Return the ids for the given topics and their messages.

        The registered text must equal this build's; an older or newer one that agrees on every
        shared field is accepted with a warning.

        Raises:
            SchemaNotRegistered: A topic has no schema.
            SchemaMismatch: A registered contract contradicts this build's.
            Unavailable: The registry doesn't answer within its waiting time.
        """
        ids = {topic: self._resolve(topic, message) for topic, message in subjects.items()}
        self._accepted.update(ids.items())
        return SchemaIds(ids)

    def accepts_now(self, topic: str, schema_id: int) -> bool:
        """Return whether the schema with this id belongs to `topic`.

        A positive answer is cached permanently. A negative one is cached for `REJECTED_SECONDS`:
        the schema may be registered later, as when a newer producer is deployed before its schemas.

        Raises:
            Unavailable: The registry doesn't answer within its waiting time.
        """
        key = (topic, schema_id)
        if key in self._accepted:
            return True
        if self._clock() < self._rejected_until.get(key, 0.0):
            return False
        versions = self._client.get(f"/schemas/ids/{schema_id}/versions") or []
        subjects = {version["subject"] for version in cast(list[dict[str, Any]], versions)}
        accepted = _subject(topic) in subjects
        if accepted:
            self._accepted.add(key)
        else:
            if len(self._rejected_until) >= MAX_REJECTED:
                self._rejected_until.clear()
            self._rejected_until[key] = self._clock() + REJECTED_SECONDS
        _log.info(
            "schema id %s %s",
            schema_id,
            "accepted" if accepted else "is not this topic's",
            extra={"topic": topic},
        )
        return accepted

    def _resolve(self, topic: str, message: type[Message]) -> int:
        subject = _subject(topic)
        path = f"/subjects/{quote(subject, safe='')}/versions"
        latest = cast(dict[str, Any] | None, self._client.get(f"{path}/latest"))
        if latest is None:
            raise SchemaNotRegistered(subject, self._client.url)
        descriptor = cast(Descriptor, message.DESCRIPTOR)
        ours = schema_text.normalized(proto_text(descriptor.file.name))
        if schema_text.normalized(latest["schema"]) == ours:
            return latest["id"]
        versions = cast(list[int], self._client.get(path) or [])
        for version in sorted(versions, reverse=True):
            older = cast(dict[str, Any] | None, self._client.get(f"{path}/{version}"))
            if older is not None and schema_text.normalized(older["schema"]) == ours:
                _log.warning(
                    "%s: the registry has version %s, this build knows version %s and writes that",
                    subject,
                    latest["version"],
                    version,
                )
                return older["id"]
        if differences := schema_text.contradictions(descriptor, latest["schema"]):
            raise SchemaMismatch(subject, differences)
        _log.warning(
            "%s: this build's contract isn't registered; writing compatible version %s. Register "
            "it with: %s",
            subject,
            latest["version"],
            DEPLOY,
        )
        return latest["id"]


def _subject(topic: str) -> str:
    return f"{topic}-value"
