"""A session's beginning: what earlier runs left on the topics, as an input like any other.

The first input of a session is the CONNECT of its connection 0 (REST) with a `Checkpoint` as its
payload, so that a replay of the session begins in the same state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import Struct, field

from coinmesh_contracts.events.v1.gap_pb2 import GapCause
from collector_binance.core.encode import Record
from collector_binance.core.gaps import Hole
from collector_binance.core.messages import Channel

if TYPE_CHECKING:
    from collector_binance.core.engine import Engine
    from collector_binance.core.market import Market

BACKFILL: Final = "backfill"
"""The context of a SUBSCRIPTION input whose payload is a `Backfill`."""

RETRY_GAP: Final = "retry-gap"
"""The context of a SUBSCRIPTION input whose payload is a `RetryGap`."""

STALLED: Final = "stalled"
CLOSED: Final = "closed"
"""Reasons of a DISCONNECT: the connection was silent; we closed it in favour of another."""


class OpenHole(Struct):
    """Trades that an earlier run missed; revision 0 when it could not even say so."""

    first_id: int
    last_id: int
    missing: list[tuple[int, int]]
    cause: int = int(GapCause.GAP_CAUSE_DOWNTIME)
    gap_id: str = ""
    revision: int = 0
    detail: str = ""
    start_time: int | None = None
    end_time: int | None = None


class Continuation(Struct):
    """Where an earlier run stopped with one symbol."""

    trade_id: int | None = None
    trade_time: int | None = None
    book_id: int | None = None
    holes: list[OpenHole] = field(default_factory=list)


class Checkpoint(Struct):
    """What a session continues, by symbol."""

    symbols: dict[str, Continuation] = field(default_factory=dict)


class Backfill(Struct):
    """Trades wanted of one symbol that the topic lacks."""

    symbol: str
    spans: list[tuple[int, int]]


class RetryGap(Struct):
    """The repair of a gap of one symbol is to be repeated."""

    symbol: str
    gap_id: str


_decode_retry: Final = msgspec.json.Decoder(RetryGap).decode
_decode_checkpoint: Final = msgspec.json.Decoder(Checkpoint).decode
_decode_backfill: Final = msgspec.json.Decoder(Backfill).decode


def begin(engine: Engine, payload: bytes) -> None:
    """Forget the session before, if there was one, and continue from a checkpoint."""
    checkpoint = _decode_checkpoint(payload)
    engine.markets.clear()
    engine.links.clear()
    # A session publishes its instruments whatever an earlier one has published.
    engine.infos.clear()
    engine.sequence = 1
    engine.restored = checkpoint.symbols


def restore(engine: Engine, market: Market, receive_ns: int, out: list[Record]) -> None:
    """Put a new market where the checkpoint says that its instrument stood."""
    left = engine.restored.pop(market.symbol, None)
    if left is None:
        return
    if left.trade_id is not None:
        market.trades.last_id = left.trade_id
        market.trades.last_time = left.trade_time
        market.trades.suspect = GapCause.GAP_CAUSE_DOWNTIME
    if left.book_id is not None:
        market.book.continue_after(left.book_id)
    for each in left.holes:
        hole = Hole(
            channel=Channel.TRADE,
            first=each.first_id,
            last=each.last_id,
            cause=cast(GapCause.ValueType, each.cause),
            detail=each.detail or "found missing on the topic at start",
            start_time=each.start_time,
            end_time=each.end_time,
            missing=list(each.missing),
            gap_id=each.gap_id,
            revision=each.revision,
        )
        market.gaps.restore(hole, receive_ns, out)
    market.trades.resume(receive_ns, out)


def backfill(engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
    """Begin to read trades that the topic lacks."""
    wanted = _decode_backfill(payload)
    engine.market(wanted.symbol).trades.backfill(wanted.spans, receive_ns, out)


def retry_gap(engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
    """Repair a gap again."""
    wanted = _decode_retry(payload)
    engine.market(wanted.symbol).trades.retry(wanted.gap_id, receive_ns, out)


def disconnect_cause(reason: str) -> GapCause.ValueType | None:
    """Why a hole after a disconnect with that reason is there; None when we closed it."""
    if reason == CLOSED:
        return None
    if reason == STALLED:
        return GapCause.GAP_CAUSE_STALL
    return GapCause.GAP_CAUSE_DISCONNECT
