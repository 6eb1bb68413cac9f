"""One depth event with its levels in units."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from collector_binance.core.messages import DepthData
from collector_binance.core.units import Levels, parse_sides


@dataclass(slots=True)
class Delta:
    """One depth event, its levels in units; `time` is the venue's, in microseconds."""

    first_id: int
    last_id: int
    time: int
    receive_ns: int
    bids: Levels
    asks: Levels
    data: DepthData


def read(data: DepthData, scale: int, receive_ns: int) -> Delta:
    """Return a depth event; `scale` is the connection's microseconds per time unit.

    Raises:
        DecimalError: A level is not a plain decimal number.
        ValueError: Its update ids run backwards.
    """
    if data.first_id > data.last_id:
        raise ValueError(f"update ids run backwards: {data.first_id} to {data.last_id}")
    bids, asks = parse_sides(bytes(data.bids), bytes(data.asks))
    time = data.publish_time * scale
    return Delta(data.first_id, data.last_id, time, receive_ns, bids, asks, data)


def near_prices(deltas: Collection[Delta]) -> list[int]:
    """Return the best bid and ask in deltas; 0 for a side without levels."""
    bids = [price for delta in deltas for price in delta.bids[0]]
    asks = [price for delta in deltas for price in delta.asks[0]]
    return [max(bids, default=0), min(asks, default=0)]
