"""REST depth snapshots in a text capture: they don't name their symbol, so it is found.

A snapshot belongs to the instrument whose update ids it continues. Where several fit, since ids of
different instruments can overlap, the one whose prices it is nearest to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from coinmesh_sources.inputs import Record
from collector_binance.core.book import BookState
from collector_binance.core.engine import Engine
from collector_binance.core.market import Market
from collector_binance.core.messages import BookSnapshot, decode_book_snapshot
from collector_binance.core.units import parse_sides

_KEPT: Final = 64
_FAR: Final = math.log(2)
_NEAR: Final = math.log(1.05)


@dataclass(slots=True)
class Waiting:
    """A snapshot that no instrument has continued yet."""

    snapshot: BookSnapshot
    receive_ns: int
    middle: float | None


class InlineSnapshots:
    """Gives each snapshot to its instrument, at once or when deltas have come that continue it."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []

    def take(self, engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
        """A snapshot line."""
        snapshot = decode_book_snapshot(payload)
        waiting = Waiting(snapshot, receive_ns, _middle(snapshot))
        if not self._place(engine, waiting, out):
            self._waiting = [*self._waiting, waiting][-_KEPT:]

    def retry(self, engine: Engine, out: list[Record]) -> None:
        """Try the snapshots that still wait: new deltas have come."""
        if self._waiting:
            self._waiting = [each for each in self._waiting if not self._place(engine, each, out)]

    def _place(self, engine: Engine, waiting: Waiting, out: list[Record]) -> bool:
        snapshot = waiting.snapshot
        middle = waiting.middle
        best: tuple[float, Market] | None = None
        for market in engine.markets.values():
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
    """How far a price is from the instrument's, as a ratio's logarithm; 0 when unknown."""
    # A quote may have no side: nothing was in the book then.
    quoted = [price for price in (market.quotes.last or ())[::2] if price]
    known = quoted or [price for price in market.book.near_prices() if price]
    if not middle or not known:
        return 0.0
    return abs(math.log(middle / (sum(known) / len(known))))
