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
from collector_binance.core.gaps import GapLog, Hole, Span, count, split
from collector_binance.core.messages import Channel, PastTrade, TradeData
from collector_binance.core.restart import Restart

REST_LIMIT: Final = 1000
"""The most trades that the venue gives in one answer."""

FIRST_RETRY_NS: Final = 10**9
LONGEST_RETRY_NS: Final = 300 * 10**9
"""Delays between attempts to repair a gap: doubled from the first to the longest."""

GIVE_UP_NS: Final = 6 * 3600 * 10**9
"""How long a gap is retried before it counts as unrepairable: the venue's history can lag, and a
refusal may be about the moment and not about the trades."""

RESTART_SPAN: Final = 1000
"""After ids began anew, so many trades before the first one that was taken are read over REST."""

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
        self._asked: Hole | None = None
        self._lost_because: dict[str, str] = {}
        self._given_up: deque[Hole] = deque(maxlen=GIVEN_UP)
        self._restart = Restart()
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
        self.suspect = None
        self._publish(data, record, time, out)

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
        self._ask(receive_ns)

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
        self._ask(receive_ns)

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
        requested, self._asked = self._asked, None
        for data, record in zip(ordered, records, strict=True):
            self._fill(data, record, data.trade_time * scale, receive_ns, out)
        if ordered and ordered[0].trade_id > asked_from:
            # The history begins later: what it skipped it does not have.
            span = (asked_from, ordered[-1].trade_id)
            for hole in self.holes:
                self._lose(hole, span, "the venue's history lacks them", receive_ns, out)
        if requested is not None and requested.missing:
            if requested.missing[0][0] <= asked_from:
                reason = "the venue's history does not hold the trades yet"
                self._defer(requested, reason, receive_ns, out)
            else:
                requested.failed_attempts = requested.refused_ns = 0
        self._ask(receive_ns)

    def refused(self, reason: str, receive_ns: int, out: list[Record]) -> None:
        """The venue's answer to the last request can't be used; the request is repeated later."""
        requested, self._asked = self._asked, None
        if requested is not None and requested.missing:
            self._defer(requested, reason, receive_ns, out)
        self._ask(receive_ns)

    def _defer(self, hole: Hole, reason: str, receive_ns: int, out: list[Record]) -> None:
        """Repeat the repair after a delay that grows; give up once it has failed for hours."""
        hole.refused_ns = hole.refused_ns or receive_ns
        delay = min(LONGEST_RETRY_NS, FIRST_RETRY_NS << min(hole.failed_attempts, 16))
        hole.failed_attempts += 1
        hole.retry_ns = receive_ns + delay
        if receive_ns - hole.refused_ns >= GIVE_UP_NS:
            self._lose(hole, (hole.first, hole.last), reason, receive_ns, out)
        elif hole.detail != reason:
            self._gaps.update(hole, receive_ns, out, reason)

    def _lose(
        self, hole: Hole, span: Span, reason: str, receive_ns: int, out: list[Record]
    ) -> None:
        """The missing part of a hole within a span is unavailable; the rest is requested."""
        lost, kept = split(hole.missing, span)
        if not lost:
            return
        hole.missing, hole.lost = kept, sorted([*hole.lost, *lost])
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
        hole.failed_attempts = hole.refused_ns = hole.retry_ns = 0
        self._ask(receive_ns)

    @property
    def deadline(self) -> int | None:
        """When (ns) a deferred repair is due; None while a request is under way."""
        if self._asked is not None or not self._gaps.open_holes:
            return None
        return min((hole.retry_ns for hole in self.holes if hole.missing), default=None)

    def on_tick(self, now_ns: int) -> bool:
        """Request the trades of a deferred repair that is due; True when there was one."""
        deadline = self.deadline
        if deadline is None or now_ns < deadline:
            return False
        self._ask(now_ns)
        return True

    def resume(self, receive_ns: int, out: list[Record]) -> None:
        """Go on with holes that an earlier run left; some may have been filled since."""
        for hole in self.holes:
            self._close_if_done(hole, receive_ns, out)
        self._ask(receive_ns)

    def _restarted(
        self, data: TradeData, record: Record, time: int, receive_ns: int, out: list[Record]
    ) -> None:
        """A trade with an old id but a newer time: after several in a row the ids began anew.

        The venue numbers an instrument's trades in the order of their times. It begins again when
        an instrument is listed anew or a test network is reset; without this, everything would be
        dropped as a duplicate.
        """
        if not self._restart.is_new(data.trade_id, time, self.last_time):
            return
        self.duplicates -= 1
        number = data.trade_id
        for hole in self.holes:
            span = (hole.first, hole.last)
            self._lose(hole, span, "trade ids began anew", receive_ns, out)
        self._given_up.clear()
        self._gaps.open(
            Channel.TRADE,
            (max(1, number - RESTART_SPAN), number - 1),
            receive_ns,
            out,
            cause=GapCause.GAP_CAUSE_SEQUENCE_RESET,
            detail=f"trade ids began anew after {self.last_id}",
            times=(self.last_time, time),
        )
        self._publish(data, record, time, out)
        self._ask(receive_ns)

    def _publish(
        self, data: TradeData | PastTrade, record: Record, time: int, out: list[Record]
    ) -> None:
        self.last_id, self.last_time = data.trade_id, time
        self.events += 1
        out.append(record)
        if self.listener is not None:
            self.listener(data.trade_id, data.price, data.size, data.buyer_is_maker, time)

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
            if isinstance(data, TradeData):
                self._restarted(data, record, time, receive_ns, out)
            return
        self.events += 1
        out.append(record)
        if self.listener is not None:
            self.listener(data.trade_id, data.price, data.size, data.buyer_is_maker, time)
        self._close_if_done(hole, receive_ns, out)

    def _ask(self, now_ns: int) -> None:
        """One request at a time, for the oldest missing ids whose repair isn't deferred."""
        if self._asked is not None:
            return
        due = (hole for hole in self.holes if hole.missing and hole.retry_ns <= now_ns)
        if (hole := next(due, None)) is not None:
            first, last = hole.missing[0]
            self._asked = hole
            limit = min(REST_LIMIT, last - first + 1)
            self._commands.append(WantTrades(self._encoder.symbol, first, limit))
