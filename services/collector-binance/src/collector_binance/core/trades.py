"""Trades of one instrument: contiguous ids checked, duplicates dropped, gaps filled over REST.

Binance spot numbers an instrument's trades contiguously, so each missing id is a missed trade.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_sources.gaps import GapLedger, OpenGap, Span, count, split
from coinmesh_sources.inputs import Record
from collector_binance.core.commands import Command, FetchTrades
from collector_binance.core.encode import Encoder
from collector_binance.core.messages import Channel, PastTrade, TradeData
from collector_binance.core.restart import Restart

REST_LIMIT: Final = 1000
"""Maximum number of trades in one answer of the venue."""

FIRST_RETRY_NS: Final = 10**9
LONGEST_RETRY_NS: Final = 300 * 10**9
"""Delays between attempts to repair a gap: doubled from the first to the longest."""

GIVE_UP_NS: Final = 6 * 3600 * 10**9
"""Time for which a gap is retried before it counts as unrepairable: the venue's history can lag,
and a refusal may be temporary."""

GIVE_UP_ATTEMPTS: Final = 20
"""Minimum attempts before that: input times are wall-clock times, which may be set forward."""

RESTART_SPAN: Final = 1000
"""Number of trades before the first one after an id restart that are read over REST."""

MAX_OPEN_GAPS: Final = 1000
"""Maximum number of open gaps, which bounds a checkpoint; beyond it the oldest is given up."""

GIVEN_UP: Final = 100
"""Number of gaps that could not be filled and are remembered."""

Listener = Callable[[int, str, str, bool, int], None]
"""Called with each new trade: id, price, size, whether the buyer was the maker, time (µs)."""


class Trades:
    """The trade stream's state.

    Attributes:
        last_id: The highest id seen; None before the first.
        last_time: That trade's time, microseconds.
        suspect: Cause of the next gap, after an event that can cause one.
    """

    def __init__(self, encoder: Encoder, gaps: GapLedger, commands: list[Command]) -> None:
        self._encoder, self._gaps, self._commands = encoder, gaps, commands
        self._requested: OpenGap | None = None
        self._lost_because: dict[str, str] = {}
        self.given_up: deque[OpenGap] = deque(maxlen=GIVEN_UP)
        self._restart = Restart()
        self.listener: Listener | None = None
        self.last_id: int | None = None
        self.last_time: int | None = None
        self.suspect: GapCause.ValueType | None = None
        self.events = 0
        self.duplicates = 0

    @property
    def open_gaps(self) -> list[OpenGap]:
        """Return open gaps, oldest first."""
        gaps = [gap for gap in self._gaps.open_gaps.values() if gap.channel == Channel.TRADE]
        return sorted(gaps, key=lambda gap: gap.first)

    def on_trade(self, data: TradeData, scale: int, receive_ns: int, out: list[Record]) -> None:
        """Process a trade from the stream.

        Raises:
            DecimalError: Price or size can't be represented; the state is unchanged.
        """
        record = self._encoder.trade(data, scale, receive_ns)
        number, time = data.trade_id, data.trade_time * scale
        last = self.last_id
        if last is not None and number != last + 1:
            if number <= last:
                self._fill(data, record, time, receive_ns, out)
                return
            self.open_gap(number - 1, time, receive_ns, out)
        self.suspect = None
        self._publish(data, record, time, out)

    def release(self) -> None:
        """Clear the last trade: the next one starts a new sequence."""
        self.last_id = self.last_time = self.suspect = None
        self._restart = Restart()

    def open_gap(
        self, last_missing: int, end_time: int | None, receive_ns: int, out: list[Record]
    ) -> None:
        """Open a gap for the ids after the last one seen up to `last_missing`."""
        assert self.last_id is not None
        span = (self.last_id + 1, last_missing)
        cause = self.suspect or GapCause.GAP_CAUSE_SEQUENCE_BREAK
        detail = f"{span[1] - span[0] + 1} trades after id {self.last_id} did not come"
        times = (self.last_time, end_time)
        if len(self._gaps.open_gaps) >= MAX_OPEN_GAPS:
            reason = f"more than {MAX_OPEN_GAPS} gaps are open"
            for gap in self.open_gaps[: 1 - MAX_OPEN_GAPS]:
                self._lose(gap, (gap.first, gap.last), reason, receive_ns, out)
        self._gaps.open(
            Channel.TRADE.value, span, receive_ns, out, cause=cause, detail=detail, times=times
        )
        self.last_id = last_missing
        self._request(receive_ns)

    def backfill(
        self, spans: Sequence[tuple[int, int]], receive_ns: int, out: list[Record]
    ) -> None:
        """Open gaps for requested spans of ids that were never collected."""
        for span in spans:
            self._gaps.open(
                Channel.TRADE.value,
                span,
                receive_ns,
                out,
                cause=GapCause.GAP_CAUSE_BACKFILL,
                detail="asked for: these trades were not collected",
            )
            self.last_id = span[1] if self.last_id is None else max(self.last_id, span[1])
        self._request(receive_ns)

    def on_past_trades(
        self,
        requested_from: int,
        trades: Sequence[PastTrade],
        scale: int,
        receive_ns: int,
        out: list[Record],
    ) -> None:
        """Process an answer of historicalTrades; publish its missing trades in the order of their
        ids.

        Raises:
            DecimalError: A price or size can't be represented.
        """
        ordered = sorted(trades, key=lambda each: each.trade_id)
        records = [self._encoder.past_trade(data, scale, receive_ns) for data in ordered]
        requested, self._requested = self._requested, None
        for data, record in zip(ordered, records, strict=True):
            self._fill(data, record, data.trade_time * scale, receive_ns, out)
        if ordered and ordered[0].trade_id > requested_from:
            # The history starts later, so the venue does not have the skipped trades.
            span = (requested_from, ordered[-1].trade_id)
            for gap in self.open_gaps:
                self._lose(gap, span, "the venue's history lacks them", receive_ns, out)
        if requested is not None and requested.missing:
            if requested.missing[0][0] <= requested_from:
                reason = "the venue's history does not hold the trades yet"
                self._defer(requested, reason, receive_ns, out)
            else:
                requested.failed_attempts = requested.refused_ns = 0
        self._request(receive_ns)

    def refused(self, reason: str, receive_ns: int, out: list[Record]) -> None:
        """Repeat the last request later: the venue's answer can't be used."""
        requested, self._requested = self._requested, None
        if requested is not None and requested.missing:
            self._defer(requested, reason, receive_ns, out)
        self._request(receive_ns)

    def _defer(self, gap: OpenGap, reason: str, receive_ns: int, out: list[Record]) -> None:
        """Schedule the next repair with a growing delay; give up once it has failed for hours."""
        gap.refused_ns = gap.refused_ns or receive_ns
        delay = min(LONGEST_RETRY_NS, FIRST_RETRY_NS << min(gap.failed_attempts, 16))
        gap.failed_attempts += 1
        gap.retry_ns = receive_ns + delay
        has_lasted = receive_ns - gap.refused_ns >= GIVE_UP_NS
        if has_lasted and gap.failed_attempts >= GIVE_UP_ATTEMPTS:
            self._lose(gap, (gap.first, gap.last), reason, receive_ns, out)
        elif gap.detail != reason:
            self._gaps.update(gap, receive_ns, out, reason)

    def _lose(
        self, gap: OpenGap, span: Span, reason: str, receive_ns: int, out: list[Record]
    ) -> None:
        """Mark the missing ids of a gap within a span as lost; the rest is still requested."""
        lost, kept = split(gap.missing, span)
        if not lost:
            return
        gap.missing, gap.lost = kept, sorted([*gap.lost, *lost])
        self._lost_because[gap.gap_id] = reason
        self._close_if_done(gap, receive_ns, out)

    def _close_if_done(self, gap: OpenGap, receive_ns: int, out: list[Record]) -> None:
        if gap.missing:
            return
        all_of_it = gap.last - gap.first + 1
        if gap.lost:
            if gap not in self.given_up:
                self.given_up.append(gap)
            reason = self._lost_because.pop(gap.gap_id, "")
            detail = f"{count(gap.lost)} of {all_of_it} trades are lost: {reason}"
            self._gaps.close(gap, GapState.GAP_STATE_UNREPAIRABLE, receive_ns, out, detail)
        else:
            self._lost_because.pop(gap.gap_id, None)
            if gap in self.given_up:
                self.given_up.remove(gap)
            detail = f"all {all_of_it} trades came after all"
            self._gaps.close(gap, GapState.GAP_STATE_REPAIRED, receive_ns, out, detail)

    def unrepaired(self, gap_id: str) -> OpenGap | None:
        """Return the gap of that id that is open or was given up; None if there is none."""
        gaps = (*self.open_gaps, *self.given_up)
        return next((gap for gap in gaps if gap.gap_id == gap_id), None)

    def retry(self, gap_id: str, receive_ns: int, out: list[Record]) -> None:
        """Repair a gap again, now; reopen it if it was given up."""
        gap = self.unrepaired(gap_id)
        if gap is None:
            return
        if gap in self.given_up:
            self.given_up.remove(gap)
            self._gaps.reopen(gap, receive_ns, out, "reopened: its repair was asked for")
        gap.failed_attempts = gap.refused_ns = gap.retry_ns = 0
        self._request(receive_ns)

    @property
    def deadline(self) -> int | None:
        """Return when (ns) a deferred repair is due; None while a request is in progress."""
        if self._requested is not None or not self._gaps.open_gaps:
            return None
        return min((gap.retry_ns for gap in self.open_gaps if gap.missing), default=None)

    def on_tick(self, now_ns: int) -> None:
        """Request the trades of a deferred repair that is due."""
        deadline = self.deadline
        if deadline is not None and now_ns >= deadline:
            self._request(now_ns)

    def resume(self, receive_ns: int, out: list[Record]) -> None:
        """Continue the gaps of an earlier run; some may have been filled since."""
        for gap in self.open_gaps:
            self._close_if_done(gap, receive_ns, out)
        self._request(receive_ns)

    def _restarted(
        self, data: TradeData, record: Record, time: int, receive_ns: int, out: list[Record]
    ) -> None:
        """Process a trade with an old id but a newer time: several in a row mean that ids
        restarted.

        The venue numbers an instrument's trades in the order of their times. It starts again if an
        instrument is listed again or a test network is reset; without this check, all later trades
        would be dropped as duplicates.
        """
        if not self._restart.is_new(data.trade_id, time, self.last_time):
            return
        self.duplicates -= 1
        number = data.trade_id
        for gap in self.open_gaps:
            span = (gap.first, gap.last)
            self._lose(gap, span, "trade ids began anew", receive_ns, out)
        self.given_up.clear()
        self._gaps.open(
            Channel.TRADE.value,
            (max(1, number - RESTART_SPAN), number - 1),
            receive_ns,
            out,
            cause=GapCause.GAP_CAUSE_SEQUENCE_RESET,
            detail=f"trade ids began anew after {self.last_id}",
            times=(self.last_time, time),
        )
        self._publish(data, record, time, out)
        self._request(receive_ns)

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
        # A trade that the venue's history lacked may still arrive from the stream or through a
        # backfill, which is another gap with the same id.
        gaps = (*self.open_gaps, *self.given_up)
        filled = [gap for gap in gaps if gap.fill(data.trade_id)]
        if not filled:
            self.duplicates += 1
            if isinstance(data, TradeData):
                self._restarted(data, record, time, receive_ns, out)
            return
        self.events += 1
        out.append(record)
        if self.listener is not None:
            self.listener(data.trade_id, data.price, data.size, data.buyer_is_maker, time)
        for gap in filled:
            is_given_up = gap.state == GapState.GAP_STATE_UNREPAIRABLE
            # A gap that was given up gets its next record when it is complete, not for each trade.
            if not (is_given_up and gap.lost):
                self._close_if_done(gap, receive_ns, out)

    def _request(self, now_ns: int) -> None:
        """Send one request at a time, for the oldest missing ids whose repair isn't deferred."""
        if self._requested is not None:
            return
        due = (gap for gap in self.open_gaps if gap.missing and gap.retry_ns <= now_ns)
        if (gap := next(due, None)) is not None:
            first, last = gap.missing[0]
            self._requested = gap
            limit = min(REST_LIMIT, last - first + 1)
            self._commands.append(FetchTrades(self._encoder.symbol, first, limit))
