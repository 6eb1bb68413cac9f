"""Which partitions a stream of events reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from market_data import INSTRUMENT

from coinmesh_contracts import topics
from coinmesh_contracts.query.v1.event_service_pb2 import StreamEventsRequest
from meshkit.consumer import Keyed
from query_gateway import event_service
from query_gateway.event_service import EventService


class FakeConsumer:
    """Has no records; notes what it was assigned."""

    sources: list[Any]

    @classmethod
    def assigned(cls, _settings: Any, sources: list[Any], _start: Any, **_: Any) -> FakeConsumer:
        cls.sources = sources
        return cls()

    async def __aenter__(self) -> FakeConsumer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def batches(self, _most: int) -> AsyncGenerator[list[Any], None]:
        for batch in ():
            yield batch


@pytest.mark.parametrize(
    ("topic", "instrument", "sources"),
    [
        (topics.TRADES.name, INSTRUMENT, [Keyed(topics.TRADES.name, INSTRUMENT.encode())]),
        (topics.TRADES.name, "", [topics.TRADES.name]),
        # Keyed by something else: all partitions may have events of the instrument.
        (topics.FRAMES.name, INSTRUMENT, [topics.FRAMES.name]),
    ],
)
async def test_stream_of_one_instrument_reads_its_partition_alone(
    monkeypatch: pytest.MonkeyPatch, topic: str, instrument: str, sources: list[Any]
) -> None:
    monkeypatch.setattr(event_service, "Consumer", FakeConsumer)
    settings: Any = SimpleNamespace(event_streams=1, service_name="gateway")
    nothing: Any = None
    service = EventService(settings, nothing, lambda: True)
    request = StreamEventsRequest(topic=topic, instrument=instrument)
    bodies = [body async for body in service.StreamEvents(request, nothing)]
    await service.close()
    assert len(bodies) == 1
    assert FakeConsumer.sources == sources
