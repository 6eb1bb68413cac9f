"""The start of a session: state restored from earlier runs is an input like any other.

The first input of a session is the CONNECT of its connection 0 (REST) with a `Checkpoint` as its
payload, so that a replay of the session begins in the same state. A large checkpoint is split into
parts, because each input is recorded whole and Kafka limits the size of a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec
from msgspec import Struct, field

from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_sources.connections import CLOSED, STALLED
from coinmesh_sources.gaps import OpenGap
from coinmesh_sources.inputs import Position, Record
from collector_binance.core.messages import Channel

if TYPE_CHECKING:
    from collector_binance.core.engine import Engine
    from collector_binance.core.market import Market

BACKFILL: Final = "backfill"
"""The context of a SUBSCRIPTION input whose payload is a `Backfill`."""

RETRY_GAP: Final = "retry-gap"
"""The context of a SUBSCRIPTION input whose payload is a `RetryGap`."""

RELEASE: Final = "release"
"""The context of a SUBSCRIPTION input whose payload is a `Release`."""


class SavedGap(Struct):
    """Ids that an earlier run missed; revision 0 if it wrote no record of the gap."""

    first_id: int
    last_id: int
    missing: list[tuple[int, int]]
    cause: int = int(GapCause.GAP_CAUSE_DOWNTIME)
    gap_id: str = ""
    revision: int = 0
    detail: str = ""
    start_time: int | None = None
    end_time: int | None = None
    unrepairable: bool = False
    failed_attempts: int = 0
    refused_ns: int = 0
    channel: str = Channel.TRADE.value

    @classmethod
    def of(cls, gap: OpenGap) -> SavedGap:
        """Return a gap in its checkpoint form."""
        return cls(
            first_id=gap.first,
            last_id=gap.last,
            missing=sorted([*gap.missing, *gap.lost]),
            cause=gap.cause,
            gap_id=gap.gap_id,
            revision=gap.revision,
            detail=gap.detail,
            start_time=gap.start_time,
            end_time=gap.end_time,
            unrepairable=gap.state == GapState.GAP_STATE_UNREPAIRABLE,
            failed_attempts=gap.failed_attempts,
            refused_ns=gap.refused_ns,
            channel=gap.channel,
        )

    def gap(self) -> OpenGap:
        """Return the gap that the session continues."""
        spans = list(self.missing)
        lost = GapState.GAP_STATE_UNREPAIRABLE if self.unrepairable else GapState.GAP_STATE_OPEN
        return OpenGap(
            channel=self.channel,
            first=self.first_id,
            last=self.last_id,
            cause=cast(GapCause.ValueType, self.cause),
            detail=self.detail or "found missing on the topic at start",
            start_time=self.start_time,
            end_time=self.end_time,
            missing=[] if self.unrepairable else spans,
            lost=spans if self.unrepairable else [],
            failed_attempts=self.failed_attempts,
            refused_ns=self.refused_ns,
            gap_id=self.gap_id,
            revision=self.revision,
            state=lost,
        )


class Continuation(Struct):
    """The position at which an earlier run stopped with one symbol.

    `released` is True if an operator removed the symbol.
    """

    instrument: str = ""
    trade_id: int | None = None
    trade_time: int | None = None
    book_id: int | None = None
    gaps: list[SavedGap] = field(default_factory=list[SavedGap], name="holes")
    book_gaps: list[SavedGap] = field(default_factory=list[SavedGap])
    released: bool = False

    def release(self) -> None:
        """Clear the streams' positions: events after a removal continue nothing."""
        self.trade_id = self.trade_time = self.book_id = None
        self.released = True

    def positions(self, symbol: str) -> list[Position]:
        """Return the streams' positions, used until the symbol is collected again."""
        if self.released:
            return [
                Position(
                    f"{channel}:{symbol}",
                    self.instrument,
                    symbol,
                    0,
                    gaps=[gap.gap() for gap in gaps],
                    subscribed=False,
                )
                for channel, gaps in ((Channel.TRADE, self.gaps), (Channel.BOOK, self.book_gaps))
            ]
        positions: list[Position] = []
        if self.trade_id is not None:
            gaps = [gap.gap() for gap in self.gaps]
            stream = f"{Channel.TRADE}:{symbol}"
            positions.append(
                Position(stream, self.instrument, symbol, self.trade_id, self.trade_time, gaps)
            )
        if self.book_id is not None:
            gaps = [gap.gap() for gap in self.book_gaps]
            stream = f"{Channel.BOOK}:{symbol}"
            positions.append(Position(stream, self.instrument, symbol, self.book_id, None, gaps))
        return positions


class Checkpoint(Struct):
    """The state that a session continues, by symbol; parts after the first (0) add to it."""

    symbols: dict[str, Continuation] = field(default_factory=dict[str, Continuation])
    epoch: int = 0
    part: int = 0


class Backfill(Struct):
    """Requested trades of one symbol that the topic lacks."""

    symbol: str
    spans: list[tuple[int, int]]


class Release(Struct):
    """The removal of a symbol by an operator: events missed from now on are not a gap."""

    symbol: str


class RetryGap(Struct):
    """A request to repeat the repair of a gap of one symbol."""

    symbol: str
    gap_id: str


PART_BYTES: Final = 1 << 20
"""Size after which no more symbols are added to a part."""

_encode: Final = msgspec.json.encode
_decode_retry: Final = msgspec.json.Decoder(RetryGap).decode
_decode_release: Final = msgspec.json.Decoder(Release).decode
_decode_checkpoint: Final = msgspec.json.Decoder(Checkpoint).decode
_decode_backfill: Final = msgspec.json.Decoder(Backfill).decode


def encode_parts(checkpoint: Checkpoint) -> list[bytes]:
    """Return a checkpoint as the payloads of a session's first inputs."""
    parts = [Checkpoint(epoch=checkpoint.epoch)]
    size = 0
    for symbol, left in checkpoint.symbols.items():
        if size >= PART_BYTES:
            parts.append(Checkpoint(epoch=checkpoint.epoch, part=len(parts)))
            size = 0
        parts[-1].symbols[symbol] = left
        size += len(_encode(left))
    return [_encode(part) for part in parts]


def begin(engine: Engine, payload: bytes) -> None:
    """Discard the previous session, if any, and continue from a checkpoint."""
    checkpoint = _decode_checkpoint(payload)
    if checkpoint.part:
        engine.restored |= checkpoint.symbols
        return
    engine.markets.clear()
    engine.links.clear()
    # A session publishes its instruments even if an earlier one has published them.
    engine.infos.clear()
    engine.sequence = 1
    engine.restored = checkpoint.symbols
    engine.epoch = checkpoint.epoch


def restore(engine: Engine, market: Market, receive_ns: int, out: list[Record]) -> None:
    """Continue a new market at its checkpoint."""
    left = engine.restored.pop(market.symbol, None)
    if left is None:
        return
    if left.trade_id is not None:
        market.trades.last_id = left.trade_id
        market.trades.last_time = left.trade_time
        market.trades.suspect = GapCause.GAP_CAUSE_DOWNTIME
    if left.book_id is not None:
        market.book.continue_after(left.book_id)
    for saved in left.book_gaps:
        market.book.gap = saved.gap()
        market.gaps.restore(market.book.gap, receive_ns, out)
    if left.released:
        market.release(receive_ns, out)
    for saved in left.gaps:
        if saved.unrepairable:
            market.trades.given_up.append(saved.gap())
        else:
            market.gaps.restore(saved.gap(), receive_ns, out)
    market.trades.resume(receive_ns, out)


def backfill(engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
    """Begin to read trades that the topic lacks."""
    requested = _decode_backfill(payload)
    engine.market(requested.symbol).trades.backfill(requested.spans, receive_ns, out)


def retry_gap(engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
    """Repair a gap again."""
    requested = _decode_retry(payload)
    engine.market(requested.symbol).trades.retry(requested.gap_id, receive_ns, out)


def release(engine: Engine, payload: bytes, receive_ns: int, out: list[Record]) -> None:
    """Stop counting missing events of a removed symbol; its open gaps are still repaired."""
    symbol = _decode_release(payload).symbol
    if (left := engine.restored.get(symbol)) is not None:
        left.release()
    if (market := engine.markets.get(symbol)) is not None:
        market.release(receive_ns, out)


def disconnect_cause(reason: str) -> GapCause.ValueType | None:
    """Return the cause of a gap after a disconnect; None if the collector closed the connection."""
    if reason == CLOSED:
        return None
    if reason == STALLED:
        return GapCause.GAP_CAUSE_STALL
    return GapCause.GAP_CAUSE_DISCONNECT
