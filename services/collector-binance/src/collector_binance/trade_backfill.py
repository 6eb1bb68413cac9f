"""Backfills of trades: ids that the topic lacks become gaps, which the engine repairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from coinmesh_contracts import topics
from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources import checkpoints
from coinmesh_sources.checkpoints import MARGIN
from coinmesh_sources.collector import Collector
from coinmesh_sources.gaps import OpenGap, Span, without
from coinmesh_sources.rest import RestClient
from collector_binance.core import session
from collector_binance.core.engine import Engine
from collector_binance.core.market import Market
from collector_binance.core.messages import Channel, decode_past_trades
from collector_binance.core.trades import MAX_OPEN_GAPS
from collector_binance.exchange import HISTORY_PATH, TRADES_WEIGHT
from collector_binance.settings import CollectorSettings
from meshkit.errors import FailedPrecondition, InvalidArgument

MAX_IDS: Final = 1_000_000


class Presence:
    """Tracks which ids of a span are present, with one byte for each id."""

    def __init__(self, span: Span) -> None:
        self._first, self._present = span[0], bytearray(span[1] - span[0] + 1)

    def add(self, number: int) -> None:
        """Mark an id; ignore an id outside the span."""
        if 0 <= number - self._first < len(self._present):
            self._present[number - self._first] = 1

    def missing(self) -> list[Span]:
        """Return the ids that are not present, as spans."""
        spans: list[Span] = []
        start = self._present.find(0)
        while start >= 0:
            end = self._present.find(1, start)
            stop = end if end >= 0 else len(self._present)
            spans.append((self._first + start, self._first + stop - 1))
            start = self._present.find(0, stop)
        return spans


@dataclass(slots=True)
class TradeBackfill:
    """The backfill of one request.

    Attributes:
        collector: The collector.
        rest: Its REST client.
        settings: Its settings.
        market: The instrument.
        span: The ids requested, up to the newest.
        gaps: The gaps opened for missing trades.
        scanned: Whether the topic has been read.
    """

    collector: Collector[Engine]
    rest: RestClient
    settings: CollectorSettings
    market: Market
    span: Span
    gaps: list[OpenGap] = field(default_factory=list[OpenGap])
    scanned: bool = False

    @property
    def published(self) -> int:
        """Return the number of trades published so far."""
        return sum(gap.repaired for gap in self.gaps)

    @property
    def next_id(self) -> int:
        """Return the first id that is still missing; the one after the last if none is."""
        if not self.scanned:
            return self.span[0]
        missing = [first for gap in self.gaps for first, _ in gap.missing[:1]]
        return min(missing, default=self.span[1] + 1)

    @property
    def done(self) -> bool:
        """Return whether no more trades have to be read."""
        return self.scanned and not any(gap.missing for gap in self.gaps)

    async def start(self) -> None:
        """Open gaps for the trades that are neither on the topic nor under repair.

        Raises:
            FailedPrecondition: Too many gaps would be open.
        """
        # Gaps repaired during the scan, and trades in flight to Kafka, may be absent from the scan:
        # they would be published twice.
        under_repair = [(gap.first, gap.last) for gap in self.market.trades.open_gaps]
        await self.collector.delivered()
        presence = Presence(self.span)
        key = self.market.encoder.key
        client = checkpoints.client_of(self.settings.service_name)
        since = await self._published_since()
        async for message in checkpoints.records(self.settings, client, topics.TRADES, since):
            if message.key() == key:
                trade = checkpoints.parsed(message, Trade)
                if trade is not None:
                    presence.add(trade.trade_id)
        open_gaps = self.market.trades.open_gaps
        under_repair += [(gap.first, gap.last) for gap in open_gaps]
        spans = without(presence.missing(), under_repair)
        if spans and len(spans) + len(open_gaps) > MAX_OPEN_GAPS:
            raise FailedPrecondition(
                "BACKFILL_TOO_FRAGMENTED",
                f"{self.market.symbol} lacks {len(spans)} spans of the ids requested, and "
                f"{len(open_gaps)} gaps are open, of at most {MAX_OPEN_GAPS}; request fewer ids, "
                "or wait for the repair",
                symbol=self.market.symbol,
            )
        if spans:
            payload = msgspec.json.encode(session.Backfill(self.market.symbol, spans))
            kind = FrameKind.FRAME_KIND_SUBSCRIPTION
            self.collector.give(self.collector.input(kind, payload, session.BACKFILL))
            opened = set(spans)
            self.gaps = [
                gap for gap in self.market.trades.open_gaps if (gap.first, gap.last) in opened
            ]
        self.scanned = True

    async def _published_since(self) -> datetime | None:
        """Return the execution time of the span's first trade: none was published before.

        None if the venue's history does not provide it.
        """
        arguments = {"symbol": self.market.symbol, "fromId": self.span[0], "limit": 1}
        answer = await self.rest.get(HISTORY_PATH, arguments, TRADES_WEIGHT)
        try:
            trades = decode_past_trades(answer.body) if answer.status == 200 else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if not trades or trades[0].trade_id != self.span[0]:
            return None
        return datetime.fromtimestamp(trades[0].trade_time / 1e6, UTC) - MARGIN


def span_of(request: pb.BackfillRequest, newest: int | None, symbol: str) -> Span:
    """Return the ids of a request, up to the newest.

    Raises:
        InvalidArgument: The ids are no range, or too many, or other channels are requested.
        FailedPrecondition: No trade of the instrument has been received yet.
    """
    if request.WhichOneof("range") != "ids" or {*request.channels} - {Channel.TRADE.value}:
        raise InvalidArgument(
            "BACKFILL_UNSUPPORTED",
            "Binance's history can be read for the channel trade, by ids",
            field="range",
        )
    first, last = request.ids.first, request.ids.last
    if not 0 < first <= last:
        raise InvalidArgument(
            "TRADE_RANGE_INVALID",
            f"ids.first {first} must be positive and at most ids.last {last}",
            field="ids.first",
        )
    if last - first >= MAX_IDS:
        raise InvalidArgument(
            "TRADE_RANGE_TOO_LARGE",
            f"{last - first + 1} ids are more than {MAX_IDS}; request parts",
            field="ids.last",
        )
    if newest is None:
        raise FailedPrecondition(
            "INSTRUMENT_NOT_LIVE",
            f"no trade of {symbol} has been received yet; subscribe it first",
            symbol=symbol,
        )
    if first > newest:
        raise InvalidArgument(
            "TRADE_RANGE_FUTURE", f"the newest trade has id {newest}", field="ids.first"
        )
    return first, min(last, newest)
