"""The payloads of a symbol's streams, in the venue's format (web-socket-streams.md).

Times are µs; `micro` selects the published unit. Prices and sizes are units of 10^-8.
"""

from collections.abc import Iterable
from typing import NamedTuple

from coinmesh_simulators.exchange.amounts import to_text
from coinmesh_simulators.exchange.book import OrderBook, Side, Top
from coinmesh_simulators.exchange.store import TradeRow

Levels = dict[tuple[Side, int], int]
"""Quantities by side and price."""


class DepthEvent(NamedTuple):
    """The changed levels between two update ids."""

    first: int
    last: int
    changes: Levels


def per_unit(micro: bool) -> int:
    """Return the microseconds per published unit of time."""
    return 1 if micro else 1000


def _pairs(changes: Iterable[tuple[int, int]]) -> str:
    return ",".join(f'["{to_text(price)}","{to_text(size)}"]' for price, size in changes)


def trade(symbol: str, row: TradeRow, event_time: int, micro: bool) -> bytes:
    """Return the payload of `<symbol>@trade`."""
    unit = per_unit(micro)
    return (
        f'{{"e":"trade","E":{event_time // unit},"s":"{symbol}",'
        f'"t":{row.id},"p":"{to_text(row.price)}","q":"{to_text(row.quantity)}",'
        f'"T":{row.time // unit},"m":{"true" if row.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def aggregate(symbol: str, rows: list[TradeRow], event_time: int, micro: bool) -> bytes:
    """Return the payload of `<symbol>@aggTrade`: the fills of one order at one price."""
    unit = per_unit(micro)
    first = rows[0]
    return (
        f'{{"e":"aggTrade","E":{event_time // unit},"s":"{symbol}",'
        f'"a":{first.aggregate},"p":"{to_text(first.price)}",'
        f'"q":"{to_text(sum(row.quantity for row in rows))}",'
        f'"f":{first.id},"l":{rows[-1].id},"T":{first.time // unit},'
        f'"m":{"true" if first.buyer_is_maker else "false"},"M":true}}'
    ).encode()


def quote(symbol: str, top: Top, update_id: int, _micro: bool) -> bytes:
    """Return the payload of `<symbol>@bookTicker`, which has no time."""
    return (
        f'{{"u":{update_id},"s":"{symbol}",'
        f'"b":"{to_text(top.bid)}","B":"{to_text(top.bid_quantity)}",'
        f'"a":"{to_text(top.ask)}","A":"{to_text(top.ask_quantity)}"}}'
    ).encode()


def depth(symbol: str, event: DepthEvent, now: int, micro: bool) -> bytes:
    """Return the payload of `<symbol>@depth` and `@depth@100ms`."""
    items = sorted(event.changes.items())
    bids = _pairs((price, size) for (side, price), size in reversed(items) if not side)
    asks = _pairs((price, size) for (side, price), size in items if side)
    return (
        f'{{"e":"depthUpdate","E":{now // per_unit(micro)},"s":"{symbol}",'
        f'"U":{event.first},"u":{event.last},"b":[{bids}],"a":[{asks}]}}'
    ).encode()


def partial_depth(book: OrderBook, limit: int, _micro: bool) -> bytes:
    """Return the payload of `<symbol>@depth<limit>`, which contains no symbol."""
    bids, asks = (
        ",".join(f'["{price}","{size}"]' for price, size in book.ladder(side, limit))
        for side in Side
    )
    return f'{{"lastUpdateId":{book.update_id},"bids":[{bids}],"asks":[{asks}]}}'.encode()
