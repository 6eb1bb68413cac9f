"""Recent trades: a bounded ring per instrument, in listing order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, TAKER_SIDE_SELL
from coinmesh_contracts.events.v1.trade_pb2 import Trade as TradeEvent

SIDES = {TAKER_SIDE_BUY: "buy", TAKER_SIDE_SELL: "sell"}


class TradeRow(NamedTuple):
    """One trade. Rows are ordered by their first two fields, as the stored rows are."""

    time_ms: int
    trade_id: int
    time_us: int
    price: str
    size: str
    taker_side: str
    receive_time_ns: int

    @property
    def key(self) -> tuple[int, int]:
        """Return the sort key in a listing."""
        return self.time_ms, self.trade_id


def from_event(event: TradeEvent) -> TradeRow:
    """Return the row of an event of market.trades.v1 that has an event_time."""
    time_us = event.event_time
    return TradeRow(
        time_us // 1000,
        event.trade_id,
        time_us,
        to_string(event.price_units, event.price_exponent),
        to_string(event.size_units, event.size_exponent),
        SIDES.get(event.taker_side, ""),
        event.receive_time,
    )


class TradeRing:
    """The newest trades of one instrument, each once.

    Attributes:
        floor: The offset from which on all its records of Kafka are held, since the replica
            started.
        is_seeded: Whether a trade came from another source: the newest before the replica started.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: list[TradeRow] = []
        self._offsets: dict[int, int] = {}
        self.floor = 0
        self.is_seeded = False
        self._newest_live = (-1, 0)

    def add(self, row: TradeRow, offset: int = -1) -> bool:
        """Add a trade; return False if it is present or older than all trades held.

        Args:
            row: The trade.
            offset: Offset of its record; -1 if it came from another source.
        """
        if offset >= 0:
            self._newest_live = max(self._newest_live, row.key)
        else:
            self.is_seeded = True
        if row.trade_id in self._offsets:
            return False
        rows = self._rows
        if not rows or row > rows[-1]:
            rows.append(row)
        elif len(rows) >= self._capacity and row < rows[0]:
            self.floor = max(self.floor, offset + 1)
            return False
        else:
            insort(rows, row)
        self._offsets[row.trade_id] = offset
        # An eighth at once: deleting from a list's front costs its length each time.
        if len(rows) > self._capacity + self._capacity // 8:
            excess = len(rows) - self._capacity
            dropped = max(self._offsets.pop(old.trade_id) for old in rows[:excess])
            self.floor = max(self.floor, dropped + 1)
            del rows[:excess]
        return True

    @property
    def newest(self) -> TradeRow | None:
        """Return the last trade."""
        return self._rows[-1] if self._rows else None

    @property
    def is_newest_live(self) -> bool:
        """Return whether the last trade came from Kafka."""
        return bool(self._rows) and self._rows[-1].key <= self._newest_live

    def between(self, low: tuple[int, int], high: tuple[int, int]) -> list[TradeRow]:
        """Return the kept trades with low ≤ (time_ms, trade_id) < high, in order."""
        # A tuple sorts before a longer tuple with the same prefix, so keys compare with rows.
        start, end = bisect_left(self._rows, low), bisect_left(self._rows, high)
        return self._rows[start:end]


def merge(*parts: Iterable[TradeRow]) -> list[TradeRow]:
    """Return the trades of all parts in order, each once; the last of two with one id is kept."""
    return sorted({row.trade_id: row for rows in parts for row in rows}.values())


def contiguous(rows: list[TradeRow]) -> bool:
    """Return whether the ids are contiguous, so that no trade can be missing."""
    return all(b.trade_id == a.trade_id + 1 for a, b in pairwise(rows))
