"""Trades of one instrument: contiguous ids checked, duplicates dropped, holes filled over REST.

Binance spot numbers an instrument's trades without holes, so each id that does not come is a trade
that was missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from collector_binance.core.commands import Command, WantTrades
from collector_binance.core.encode import Encoder, Record
from collector_binance.core.gaps import GapLog, Hole, count
from collector_binance.core.messages import Channel, PastTrade, TradeData

REST_LIMIT: Final = 1000
"""The most trades that the venue gives in one answer."""

MAX_ATTEMPTS: Final = 5
"""How often the same trades are asked for before their absence is believed."""

GIVEN_UP: Final = 100
"""How many holes that could not be filled are remembered."""

Listener = Callable[[int, str, str, bool, int], None]
"""Told of each new trade: id, price, size, whether the buyer was the maker, time (µs)."""


class Trades:
    """The trade stream's state.

    Attributes:
        last_id: The highest id seen; None before the first.
        last_time: That trade's time, microseconds.
        suspect: Why the next hole would be there, when something happened that can cause one.
    """

    def __init__(self, encoder: Encoder, gaps: GapLog, commands: list[Command]) -> None:
        self._encoder, self._gaps, self._commands = encoder, gaps, commands
        self._asked_from: int | None = None
        self._attempts = 0
        self._lost_because: dict[str, str] = {}
        self._given_up: deque[Hole] = deque(maxlen=GIVEN_UP)
        self.listener: Listener | None = None
        self.last_id: int | None = None
        self.last_time: int | None = None
        self.suspect: GapCause.ValueType | None = None
        self.events = 0
        self.duplicates = 0

    @property
    def holes(self) -> list[Hole]:
        """Open holes, oldest first."""
        holes = [hole for hole in self._gaps.open_holes.values() if hole.channel is Channel.TRADE]
        return sorted(holes, key=lambda hole: hole.first)

    def on_trade(self, data: TradeData, scale: int, receive_ns: int, out: list[Record]) -> None:
        """A trade from the stream.

        Raises:
            DecimalError: Price or size can't be held; the state is unchanged.
        """
        record = self._encoder.trade(data, scale, receive_ns)
        number, time = data.trade_id, data.trade_time * scale
        last = self.last_id
        if last is not None and number != last + 1:
            if number <= last:
                self._fill(data, record, time, receive_ns, out)
                return
            self.open_hole(number - 1, time, receive_ns, out)
        self.last_id, self.last_time = number, time
        self.suspect = None
        self.events += 1
        out.append(record)
        if self.listener is not None:
            self.listener(number, data.price, data.size, data.buyer_is_maker, time)

    def open_hole(
        self, last_missing: int, end_time: int | None, receive_ns: int, out: list[Record]
    ) -> None:
        """Ids after the last one seen up to `last_missing` did not come."""
        assert self.last_id is not None
        span = (self.last_id + 1, last_missing)
        cause = self.suspect or GapCause.GAP_CAUSE_SEQUENCE_BREAK
        detail = f"{span[1] - span[0] + 1} trades after id {self.last_id} did not come"
        times = (self.last_time, end_time)
        self._gaps.open(
            Channel.TRADE, span, receive_ns, out, cause=cause, detail=detail, times=times
        )
        self.last_id = last_missing
        self._ask()

    def backfill(
        self, spans: Sequence[tuple[int, int]], receive_ns: int, out: list[Record]
    ) -> None:
        """Spans of ids that were never collected are wanted after all."""
        for span in spans:
            self._gaps.open(
                Channel.TRADE,
                span,
                receive_ns,
                out,
                cause=GapCause.GAP_CAUSE_BACKFILL,
                detail="asked for: these trades were not collected",
            )
            self.last_id = span[1] if self.last_id is None else max(self.last_id, span[1])
        self._ask()

    def on_past_trades(
        self,
        asked_from: int,
        trades: Sequence[PastTrade],
        scale: int,
        receive_ns: int,
        out: list[Record],
    ) -> None:
        """An answer of historicalTrades: what is missing of it is published in the ids' order.

        Raises:
            DecimalError: A price or size can't be held.
        """
        ordered = sorted(trades, key=lambda each: each.trade_id)
        records = [self._encoder.past_trade(data, scale, receive_ns) for data in ordered]
        self._asked_from = None
        for data, record in zip(ordered, records, strict=True):
            self._fill(data, record, data.trade_time * scale, receive_ns, out)
        holes = self.holes
        if holes and holes[0].missing[0][0] <= asked_from:
            # Nothing came although later trades exist: the history may lag behind the stream.
            self._attempts += 1
        else:
            self._attempts = 0
        if (ordered and ordered[0].trade_id > asked_from) or self._attempts >= MAX_ATTEMPTS:
            end = ordered[-1].trade_id if ordered else None
            for hole in holes:
                self._lose(hole, end, "the venue's history lacks them", receive_ns, out)
            self._attempts = 0
        self._ask()

    def refused(self, reason: str, receive_ns: int, out: list[Record]) -> None:
        """The venue refuses to give the trades that were asked for."""
        self._asked_from = None
        if holes := self.holes:
            self._lose(holes[0], None, reason, receive_ns, out)
        self._ask()

    def _lose(
        self, hole: Hole, end: int | None, reason: str, receive_ns: int, out: list[Record]
    ) -> None:
        """What is missing of a hole up to `end` (None: all) can't be had; the rest is asked for."""
        asked, hole.missing = hole.missing, []
        if end is not None:
            hole.missing = [(max(first, end + 1), last) for first, last in asked if last > end]
            asked = [(first, min(last, end)) for first, last in asked if first <= end]
        hole.lost += asked
        self._lost_because[hole.gap_id] = reason
        self._close_if_done(hole, receive_ns, out)

    def _close_if_done(self, hole: Hole, receive_ns: int, out: list[Record]) -> None:
        if hole.missing:
            return
        all_of_it = hole.last - hole.first + 1
        if hole.lost:
            if hole not in self._given_up:
                self._given_up.append(hole)
            reason = self._lost_because.get(hole.gap_id, "")
            detail = f"{count(hole.lost)} of {all_of_it} trades are lost: {reason}"
            self._gaps.close(hole, GapState.GAP_STATE_UNREPAIRABLE, receive_ns, out, detail)
        else:
            detail = f"all {all_of_it} trades came after all"
            self._gaps.close(hole, GapState.GAP_STATE_REPAIRED, receive_ns, out, detail)

    def unrepaired(self, gap_id: str) -> Hole | None:
        """The gap of that id that is open or was given up; None when there is none."""
        holes = (*self.holes, *self._given_up)
        return next((hole for hole in holes if hole.gap_id == gap_id), None)

    def retry(self, gap_id: str, receive_ns: int, out: list[Record]) -> None:
        """Repair a gap again, now; one that was given up is reopened."""
        hole = self.unrepaired(gap_id)
        if hole is None:
            return
        if hole in self._given_up:
            self._given_up.remove(hole)
            self._gaps.reopen(hole, receive_ns, out, "reopened: its repair was asked for")
        self._attempts = 0
        self._ask()

    def resume(self, receive_ns: int, out: list[Record]) -> None:
        """Go on with holes that an earlier run left; some may have been filled since."""
        for hole in self.holes:
            self._close_if_done(hole, receive_ns, out)
        self._ask()

    def _fill(
        self,
        data: TradeData | PastTrade,
        record: Record,
        time: int,
        receive_ns: int,
        out: list[Record],
    ) -> None:
        # One that the venue's history lacked may still come by the stream.
        for hole in (*self.holes, *self._given_up):
            if hole.fill(data.trade_id):
                break
        else:
            self.duplicates += 1
            return
        self.events += 1
        out.append(record)
        if self.listener is not None:
            self.listener(data.trade_id, data.price, data.size, data.buyer_is_maker, time)
        self._close_if_done(hole, receive_ns, out)

    def _ask(self) -> None:
        """One request at a time, for the oldest missing ids."""
        if self._asked_from is not None:
            return
        if holes := self.holes:
            first, last = holes[0].missing[0]
            self._asked_from = first
            limit = min(REST_LIMIT, last - first + 1)
            self._commands.append(WantTrades(self._encoder.symbol, first, limit, self._attempts))
