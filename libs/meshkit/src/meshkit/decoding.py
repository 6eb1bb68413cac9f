"""Decode records to events: framing, schema id and Protobuf checked, failures to dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from confluent_kafka import Message as Record
from google.protobuf.message import DecodeError, Message

from coinmesh_contracts import framing
from meshkit.registry import Registry, SchemaIds


class Letters(Protocol):
    """Receives undecodable records: `DeadLetterCounter`, or a sender of dead letters."""

    async def send(self, message: Record, reason: str, detail: str) -> None:
        """Handle a rejected record."""
        ...


class UndecodableError(Exception):
    """A value that isn't an event of its topic; `reason` is the reason of its dead letter."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class UnknownSchemaError(UndecodableError):
    """A value with a schema id that isn't known yet; the registry may have it."""

    def __init__(self, topic: str, schema_id: int) -> None:
        super().__init__("UNKNOWN_SCHEMA_ID", f"schema id {schema_id} isn't one of {topic}'s")
        self.schema_id = schema_id


class Decoder:
    """Decodes the values of several topics.

    Args:
        messages: The message of each topic.
        ids: The ids resolved at start.
        registry: Queried for new ids, e.g. if a newer producer is deployed first.
        dead_letters: Receives undecodable records.
    """

    def __init__(
        self,
        messages: Mapping[str, type[Message]],
        ids: SchemaIds,
        registry: Registry,
        dead_letters: Letters,
    ) -> None:
        self._messages = dict(messages)
        self._known = {topic: {ids.ids[topic]} for topic in messages}
        self._registry, self._dead_letters = registry, dead_letters

    def decode_value(self, topic: str, value: bytes | None) -> Message:
        """Return the event in a framed value.

        Raises:
            UndecodableError: It is not an event; UnknownSchemaError if only its id is unknown so
                far.
        """
        try:
            schema_id, payload = framing.split(value)
        except framing.FramingError as error:
            raise UndecodableError(error.reason, str(error)) from error
        if schema_id not in self._known[topic]:
            raise UnknownSchemaError(topic, schema_id)
        try:
            return self._messages[topic].FromString(payload)
        except DecodeError as error:
            raise UndecodableError("BAD_PROTOBUF", str(error)) from error

    async def decode(self, batch: Iterable[Record]) -> list[tuple[Record, Message]]:
        """Return the batch's events with their records, in order; reject the other records first.

        Raises:
            Unavailable: The registry is needed and doesn't answer.
        """
        decoded: list[tuple[Record, Message]] = []
        failed: list[tuple[Record, UndecodableError]] = []
        for record in batch:
            topic, value = record.topic() or "", record.value()
            try:
                try:
                    event = self.decode_value(topic, value)
                except UnknownSchemaError as error:
                    if not await self._registry.accepts(topic, error.schema_id):
                        raise
                    self._known[topic].add(error.schema_id)
                    event = self.decode_value(topic, value)
            except UndecodableError as error:
                failed.append((record, error))
            else:
                decoded.append((record, event))
        await asyncio.gather(
            *(self._dead_letters.send(record, error.reason, str(error)) for record, error in failed)
        )
        return decoded
