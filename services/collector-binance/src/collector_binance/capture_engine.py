"""The engine for text captures, which contain neither subscriptions nor the symbols of snapshots.

A snapshot belongs to the instrument whose update ids it continues. If several instruments match,
since ids of different instruments can overlap, the one with the nearest prices is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coinmesh_sources.inputs import Record
from collector_binance.core.book_parts import BookState
from collector_binance.core.encode import Headers
from collector_binance.core.engine import Engine, Link
from collector_binance.core.market import Market
from collector_binance.core.messages import BookSnapshot, Channel, decode_book_snapshot
from collector_binance.core.units import parse_sides

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast

_KEPT: Final = 64
_FAR: Final = math.log(2)
_NEAR: Final = math.log(1.05)


@dataclass(slots=True)
class Waiting:
    """A snapshot that no instrument has continued yet."""

    snapshot: BookSnapshot
    receive_ns: int
    middle: float | None


class CaptureEngine(Engine):
    """An engine that accepts every symbol of a stream, and snapshots without a symbol."""

    def __init__(self, headers: Headers, *, fast: type[Fast] | None = None) -> None:
        super().__init__(headers, fast=fast)
        self.on_market: Callable[[Market], None] | None = None
        self._waiting: list[Waiting] = []

    def market(self, symbol: str) -> Market:
        """Return the market of a symbol; call `on_market` with a new one."""
        is_new = symbol not in self.markets
        market = super().market(symbol)
        if is_new and self.on_market is not None:
            self.on_market(market)
        return market

    def admits(self, link: Link, name: str, symbol: str, channel: Channel) -> bool:
        """Route any stream."""
        self.route(link, name, self.market(symbol), channel)
        return True

    def unnamed_snapshot(self, payload: bytes, receive_ns: int, out: list[Record]) -> bool:
        """Apply a snapshot to its instrument, at once or after deltas that continue it arrive."""
        snapshot = decode_book_snapshot(payload)
        waiting = Waiting(snapshot, receive_ns, _middle(snapshot))
        if not self._place(waiting, out):
            self._waiting = [*self._waiting, waiting][-_KEPT:]
        return True

    def place_waiting(self, out: list[Record]) -> None:
        """Retry the waiting snapshots after new deltas have arrived."""
        if self._waiting:
            self._waiting = [each for each in self._waiting if not self._place(each, out)]

    def _place(self, waiting: Waiting, out: list[Record]) -> bool:
        snapshot = waiting.snapshot
        middle = waiting.middle
        best: tuple[float, Market] | None = None
        for market in self.markets.values():
            book = market.book
            distance = _distance(middle, market)
            synced = book.state is BookState.SYNCED
            fits = distance < _NEAR if synced else book.joins(snapshot.last_update_id)
            if fits and distance < _FAR and (best is None or distance < best[0]):
                best = (distance, market)
        if best is None:
            return False
        best[1].book.on_snapshot(snapshot, waiting.receive_ns, out)
        return True


def _middle(snapshot: BookSnapshot) -> float | None:
    (bids, _), (asks, _) = parse_sides(bytes(snapshot.bids), bytes(snapshot.asks))
    known = [*bids[:1], *asks[:1]]
    return sum(known) / len(known) if known else None


def _distance(middle: float | None, market: Market) -> float:
    """Return the log distance of a price from the instrument's; 0 if unknown."""
    # Not the last quote: the compiled core does not store it. A side may be empty.
    known = [price for price in market.book.near_prices() if price]
    if not middle or not known:
        return 0.0
    return abs(math.log(middle / (sum(known) / len(known))))
