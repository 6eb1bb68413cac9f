"""The state of streams, for CollectorService and for liveness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.events.v1.liveness_pb2 import CoverageState
from coinmesh_sources.liveness import Coverage
from coinmesh_sources.service import timestamp
from collector_binance.core.book_parts import BookState
from collector_binance.core.engine import Engine
from collector_binance.core.market import Market
from collector_binance.core.messages import Channel
from collector_binance.streams import Streams

_STATES: Final = {
    "live": pb.STREAM_STATE_LIVE,
    "buffering": pb.STREAM_STATE_BUFFERING,
    "stale": pb.STREAM_STATE_STALE,
    "silent": pb.STREAM_STATE_SILENT,
}


def add_state(status: pb.CollectorStatus, engine: Engine, streams: Streams) -> None:
    """Add connections, streams and open gaps to a status."""
    for connection in streams.open.values():
        link = engine.links.get(connection.name)
        status.connections.add(
            connection=connection.name,
            url=connection.url,
            connect_time=timestamp(connection.connect_time.timestamp()),
            messages=link.messages if link else 0,
            streams=len(connection.streams),
        )
    for symbol in streams.symbols:
        market = engine.markets.get(symbol)
        if market is not None:
            status.streams.extend(_stream(market, channel) for channel in Channel)
            status.open_gaps += len(market.gaps.open_gaps)


def covered(engine: Engine, streams: Streams) -> Iterator[Coverage]:
    """Yield every channel of every collected symbol.

    A channel carried only by silent connections counts as down: its market may be quiet or not.
    """
    speaking = {each.name for each in streams.open.values() if not streams.is_stalled(each)}
    for symbol in streams.symbols:
        market = engine.markets.get(symbol)
        if market is None:
            continue
        for channel in Channel:
            stream = market.stream(channel)
            inputs = stream.events + stream.duplicates
            yield Coverage(
                channel.value,
                market.encoder.instrument,
                inputs,
                _covered(market, channel, speaking),
            )


def _covered(market: Market, channel: Channel, speaking: set[str]) -> CoverageState.ValueType:
    if market.connections.isdisjoint(speaking):
        return CoverageState.COVERAGE_STATE_DOWN
    if channel is Channel.BOOK and market.book.state is not BookState.SYNCED:
        return CoverageState.COVERAGE_STATE_SYNCING
    return CoverageState.COVERAGE_STATE_LIVE


def _stream(market: Market, channel: Channel) -> pb.StreamStatus:
    stream = market.stream(channel)
    return pb.StreamStatus(
        instrument=market.encoder.instrument,
        channel=channel.value,
        state=_STATES[market.state(channel, time.time_ns())],
        last_id=max(0, stream.last_id or 0),
        event_time=timestamp(stream.last_time / 1e6) if stream.last_time else None,
        events=stream.events,
        duplicates=stream.duplicates,
        gaps=market.gaps.opened.get(channel.value, 0),
    )
