"""Renders records as lines of minimal JSON in a thread, so that busy topics don't delay calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import Message as Record
from google.protobuf.message import Message

from coinmesh_contracts import minimal
from meshkit.decoding import Decoder, UndecodableError


class EventLines:
    """Decodes and renders, one batch at a time for all streams."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._thread = ThreadPoolExecutor(1, "event-lines")

    async def render(self, batch: Sequence[Record], instrument: str) -> list[str]:
        """Return the lines of a batch's events, of one instrument unless it is "".

        Raises:
            Unavailable: The registry is needed and doesn't answer.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._known, batch, instrument)
        except UndecodableError:
            # A schema id that must be looked up, or an invalid record to count: both are rare.
            events = [event for _, event in await self._decoder.decode(batch)]
            return await loop.run_in_executor(self._thread, _lines, events, instrument)

    async def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _known(self, batch: Sequence[Record], instrument: str) -> list[str]:
        events = (self._decoder.decode_value(r.topic() or "", r.value()) for r in batch)
        return _lines(events, instrument)


def _lines(events: Iterable[Message], instrument: str) -> list[str]:
    return [
        minimal.render(event)
        for event in events
        if not instrument or getattr(event, "instrument", "") == instrument
    ]
