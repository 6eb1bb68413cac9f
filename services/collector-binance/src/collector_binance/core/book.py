"""The order book of one instrument, maintained by the venue's procedure as corrected on 2025-11-12.

https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md#how-to-manage-a-local-order-book-correctly

    IDLE ── first delta ──▶ BUFFERING ── snapshot that the buffer continues ──▶ SYNCED
                                 STALE ◀── gap, or  audit failed ──────────────┘   ▲
                                   └────────── snapshot that the buffer continues ─┘

A snapshot joins if the first buffered delta that it does not cover has U <= lastUpdateId + 1 <= u.
A snapshot older than the buffer is requested again and the buffer is kept. While STALE, the book
before the gap is still published, marked as stale. A SYNCED book whose market nears the edge of its
known levels is replaced without an interruption (`renewal`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdateKind
from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_sources.gaps import GapLedger, OpenGap
from coinmesh_sources.inputs import Record
from collector_binance.core.book_parts import BookObserver, BookState, Parts, published_range
from collector_binance.core.commands import Command, FetchSnapshot
from collector_binance.core.deltas import Delta, near_prices, read
from collector_binance.core.encode import Encoder
from collector_binance.core.messages import BookSnapshot, Channel, DepthData
from collector_binance.core.renewal import Margins, Renewal, is_cut
from collector_binance.core.restart import Restart
from collector_binance.core.units import parse_sides

PUBLISHED_LEVELS: Final = 1000
SNAPSHOT_EVERY_NS: Final = 60 * 10**9
# A minute: a snapshot is created after its request was sent, so it covers older deltas.
BUFFERED_DELTAS: Final = 600
_SNAPSHOT: Final = BookUpdateKind.BOOK_UPDATE_KIND_SNAPSHOT


class Book:
    """The order book's state machine.

    Attributes:
        state: State of the book.
        last_id: The update id of the current book; None before the first snapshot.
        last_time: The venue's time (µs) of the last delta applied.
        gap: The gap that the next snapshot closes.
        suspect: Cause of the next gap, after an event that can cause one.
        on_restart: Called after the venue's update ids restarted.
        resyncs: Snapshots joined after the first.
    """

    def __init__(
        self, encoder: Encoder, gaps: GapLedger, commands: list[Command], parts: Parts | None = None
    ) -> None:
        parts = parts or Parts()
        self._encoder, self._gaps, self._commands = encoder, gaps, commands
        self._buffer: deque[Delta] = deque(maxlen=BUFFERED_DELTAS)
        self.gap: OpenGap | None = None
        self._trusted: tuple[int | None, int | None] = (None, None)
        self._held = self._published = Margins()
        self.renewal: Renewal[Delta] | None = None
        self._attempts = 0
        self._is_carried = True
        self._is_owed = False
        self._joined = 0
        self._restart = Restart()
        self.on_restart: Callable[[], None] = lambda: None
        self._published_ns = 0
        self.observer: BookObserver | None = None
        self.bids, self.asks, self.audit = parts.bids, parts.asks, parts.audit
        self.state = BookState.IDLE
        self.last_id: int | None = None
        self.last_time: int | None = None
        self.suspect: GapCause.ValueType | None = None
        self.events = 0
        self.duplicates = 0
        self.resyncs = 0

    @property
    def top(self) -> tuple[int, int, int, int]:
        """Return the best bid and ask, price and size each."""
        return (*self.bids.best(), *self.asks.best())

    def continue_after(self, last_id: int) -> None:
        """Continue after the last update id that an earlier run published."""
        self.last_id = last_id
        self.suspect = GapCause.GAP_CAUSE_DOWNTIME

    def release(self, receive_ns: int, out: list[Record]) -> None:
        """Clear the book; the next delta starts a new one."""
        if self.gap is not None:
            detail = "the instrument was removed before its book was read anew"
            state = GapState.GAP_STATE_UNREPAIRABLE
            self._gaps.close(self.gap, state, receive_ns, out, detail)
            self.gap = None
        self._buffer.clear()
        self.bids.replace([], [])
        self.asks.replace([], [])
        self.audit.reset()
        self._trusted = (None, None)
        self._held = self._published = Margins()
        self._restart = Restart()
        self.renewal = self.last_id = self.last_time = self.suspect = None
        self.state, self._attempts, self._is_owed = BookState.IDLE, 0, False

    def carried(self, is_carried: bool) -> None:
        """Set whether a connection carries the stream; without one no snapshot is requested.

        A snapshot needed meanwhile is requested once a connection carries the stream again.
        """
        self._is_carried = is_carried
        if is_carried and self._is_owed:
            self._attempts = 0
            self._want()

    def on_depth(self, data: DepthData, scale: int, receive_ns: int, out: list[Record]) -> None:
        """Process a delta from the stream.

        Raises:
            DecimalError: A level can't be represented; the state is unchanged.
        """
        self._on_applicable(read(data, scale, receive_ns), out)

    def check(self, data: DepthData, scale: int, receive_ns: int) -> None:
        """Raise the errors that `on_depth` has for a delta, without changing the state."""
        self._encode(read(data, scale, receive_ns))

    def _encode(self, delta: Delta) -> Record:
        ids = (delta.first_id, delta.last_id)
        return self._encoder.delta(ids, delta.bids, delta.asks, delta.receive_ns, delta.time)

    def _on_live(self, delta: Delta, out: list[Record]) -> None:
        last = self.last_id
        assert last is not None
        if delta.last_id <= last:
            self.duplicates += 1
            if self._restart.is_new(delta.last_id, delta.time, self.last_time):
                detail = f"update ids began anew after {last}"
                span = (delta.first_id, delta.last_id)
                cause = GapCause.GAP_CAUSE_SEQUENCE_RESET
                self._buffer.append(delta)
                try:
                    self._break(span, cause, detail, delta.receive_ns, out)
                finally:
                    self.last_id = 0
                    self.on_restart()
            return
        if delta.first_id > last + 1:
            span = (last + 1, delta.first_id - 1)
            cause = self.suspect or GapCause.GAP_CAUSE_SEQUENCE_BREAK
            detail = f"updates jumped from {last} to {delta.first_id}"
            self._buffer.append(delta)
            self._break(span, cause, detail, delta.receive_ns, out)
            return
        self.suspect = None
        if self._apply(delta, out):
            self._mismatch(delta.receive_ns, out)
            return
        if self.renewal is not None:
            self._widen(self.renewal, delta, out)
        self.watch(delta.receive_ns, out)

    def watch(self, receive_ns: int, out: list[Record]) -> None:
        """Request a newer snapshot if the book becomes narrow after a delta; publish if due."""
        assert self.last_id is not None
        bid, ask = self.bids.best()[0], self.asks.best()[0]
        if self.renewal is None and self._held.are_crossed(bid, ask):
            self.renewal = Renewal(self.last_id)
            self._want()
        due = receive_ns - self._published_ns >= SNAPSHOT_EVERY_NS
        if due or self._published.are_crossed(bid, ask):
            self.publish(receive_ns, out)

    def _widen(self, renewal: Renewal[Delta], delta: Delta, out: list[Record]) -> None:
        """Join a newer snapshot once the stream has reached its update id."""
        renewal.add(delta.last_id, delta)
        if renewal.snapshot is not None and renewal.snapshot.last_update_id <= delta.last_id:
            self._renew(renewal, renewal.snapshot, delta.receive_ns, out)

    def _renew(
        self, renewal: Renewal[Delta], snapshot: BookSnapshot, receive_ns: int, out: list[Record]
    ) -> None:
        last = snapshot.last_update_id
        if last < renewal.since:
            self._attempts += 1
            renewal.snapshot = None
            self._want()
            return
        later = [delta for last_id, delta in renewal.deltas if last_id > last]
        self._hold(snapshot, renewal.limit)
        for delta in later:
            self.bids.apply(*delta.bids)
            self.asks.apply(*delta.asks)
        self.publish(receive_ns, out)

    def _on_unsynced(self, delta: Delta, out: list[Record]) -> None:
        buffer = self._buffer
        if buffer and delta.last_id <= buffer[-1].last_id:
            self.duplicates += 1
            return
        if buffer and delta.first_id > buffer[-1].last_id + 1:
            # A snapshot can only be continued by the deltas after the newest gap.
            buffer.clear()
            if self.gap is not None:
                self.gap.extend(delta.first_id - 1)
        buffer.append(delta)
        if self.state is BookState.IDLE:
            self.state = BookState.BUFFERING
            last = self.last_id
            if self.gap is not None:
                # A gap of an earlier run whose book was not rebuilt.
                self.gap.extend(delta.first_id - 1)
            elif last is not None and delta.first_id > last + 1:
                span = (last + 1, delta.first_id - 1)
                cause = self.suspect or GapCause.GAP_CAUSE_DOWNTIME
                detail = f"updates between {last} and {delta.first_id} did not come"
                times = (None, delta.time)
                self.gap = self._gaps.open(
                    Channel.BOOK.value,
                    span,
                    delta.receive_ns,
                    out,
                    cause=cause,
                    detail=detail,
                    times=times,
                )
            self._want()

    def joins(self, last_update_id: int) -> bool:
        """Return whether the buffered deltas would continue a snapshot of that id."""
        if self.state not in (BookState.BUFFERING, BookState.STALE) or not self._buffer:
            return False
        return self._buffer[0].first_id <= last_update_id + 1 <= self._buffer[-1].last_id + 1

    def near_prices(self) -> list[int]:
        """Return prices near the market's: the book's top, or the best of the buffered deltas."""
        if len(self.bids) or len(self.asks):
            return [self.bids.best()[0], self.asks.best()[0]]
        return near_prices(self._buffer)

    def on_snapshot(
        self, snapshot: BookSnapshot, receive_ns: int, out: list[Record], limit: int | None = None
    ) -> None:
        """Process a book snapshot; `limit` is the requested number of levels per side, if known.

        Raises:
            DecimalError: A level can't be represented; the state is unchanged.
        """
        last = snapshot.last_update_id
        if self.state is BookState.SYNCED and self.renewal is not None:
            self.renewal.limit = limit
            if last > (self.last_id or 0):
                self.renewal.snapshot = snapshot
            else:
                self._renew(self.renewal, snapshot, receive_ns, out)
            return
        if self.state not in (BookState.BUFFERING, BookState.STALE):
            return
        buffer = self._buffer
        if (buffer and last + 1 < buffer[0].first_id) or (
            self.state is BookState.STALE and self.last_id is not None and last < self.last_id
        ):
            self._attempts += 1
            self._want()
            return
        resync = self.state is BookState.STALE
        self._hold(snapshot, limit)
        self.resyncs += resync
        self.last_id = last
        self.state = BookState.SYNCED
        self.suspect = None
        try:
            self.publish(receive_ns, out)
        finally:
            # The book is valid even if it can't be published.
            self._continue(receive_ns, out)

    def _continue(self, receive_ns: int, out: list[Record]) -> None:
        """Close the gap before a new snapshot and apply the deltas after it."""
        last, buffer = self.last_id or 0, self._buffer
        if self.gap is not None:
            self.gap.end_time = self.gap.end_time or (buffer[0].time if buffer else None)
            self._gaps.close(self.gap, GapState.GAP_STATE_RESYNCED, receive_ns, out)
            self.gap = None
        waiting = [delta for delta in buffer if delta.last_id > last]
        buffer.clear()
        for delta in waiting:
            self._on_applicable(delta, out)

    def _hold(self, snapshot: BookSnapshot, limit: int | None) -> None:
        """Replace the levels by a snapshot's; change nothing if one can't be represented."""
        bids, asks = parse_sides(bytes(snapshot.bids), bytes(snapshot.asks))
        if self.observer is not None:
            self.observer.on_levels(bytes(snapshot.bids), bytes(snapshot.asks))
        self.bids.replace(*bids)
        self.asks.replace(*asks)
        self._trusted = (
            min(bids[0]) if is_cut(len(bids[0]), limit) else None,
            max(asks[0]) if is_cut(len(asks[0]), limit) else None,
        )
        self._held = Margins.of(*self._trusted, self.bids.best()[0], self.asks.best()[0])
        self.renewal = None
        self._attempts = 0
        self._joined = snapshot.last_update_id

    def _on_applicable(self, delta: Delta, out: list[Record]) -> None:
        if self.state is BookState.SYNCED:
            self._on_live(delta, out)
        else:
            self._on_unsynced(delta, out)

    def on_mismatch(self, receive_ns: int, out: list[Record]) -> None:
        """Process a mismatch found by the audit."""
        if self.state is BookState.SYNCED:
            self._mismatch(receive_ns, out)

    def interrupt(self, cause: GapCause.ValueType) -> None:
        """Mark the stream as interrupted: the next delta may not continue the previous one."""
        self.suspect = cause
        self.audit.reset()

    def refused(self) -> None:
        """Request a snapshot again, later, after an answer that can't be used."""
        if self.renewal is not None or self.state in (BookState.BUFFERING, BookState.STALE):
            self._attempts += 1
            self._want()

    def publish(self, receive_ns: int, out: list[Record], *, stale: bool = False) -> None:
        """Publish the current book, at most the best 1,000 levels per side.

        A price below `trusted_low` or above `trusted_high` may have unknown levels.
        """
        assert self.last_id is not None
        # First: a book that can't be published is retried after a minute, not with each delta.
        self._published_ns = receive_ns
        bids, asks = self.bids.top(PUBLISHED_LEVELS), self.asks.top(PUBLISHED_LEVELS)
        low, high = published_range(self._trusted, self.bids, self.asks, PUBLISHED_LEVELS)
        out.append(
            self._encoder.book(
                _SNAPSHOT,
                (self.last_id, self.last_id),
                bids,
                asks,
                receive_ns,
                event_time=self.last_time,
                stale=stale,
                trusted=(low, high),
            )
        )
        self._published = Margins.of(low, high, self.bids.best()[0], self.asks.best()[0])

    def _apply(self, delta: Delta, out: list[Record]) -> bool:
        """Apply a delta; return True if the audit shows that the book is wrong."""
        record = self._encode(delta)
        if self.observer is not None:
            self.observer.on_levels(bytes(delta.data.bids), bytes(delta.data.asks))
        self.bids.apply(*delta.bids)
        self.asks.apply(*delta.asks)
        self.last_id, self.last_time = delta.last_id, delta.time
        self.events += 1
        out.append(record)
        if self.observer is not None:
            self.observer.on_applied(self)
        return self.audit.on_book(delta.last_id, self.top)

    def _mismatch(self, receive_ns: int, out: list[Record]) -> None:
        assert self.last_id is not None
        # Updates before the last snapshot are not part of the wrong book.
        span = (min(max(self.audit.last_match, self._joined) + 1, self.last_id), self.last_id)
        cause = GapCause.GAP_CAUSE_BOOK_MISMATCH
        self._break(span, cause, self.audit.detail, receive_ns, out)

    def _break(
        self,
        span: tuple[int, int],
        cause: GapCause.ValueType,
        detail: str,
        receive_ns: int,
        out: list[Record],
    ) -> None:
        times = (self.last_time, None)
        self.gap = self._gaps.open(
            Channel.BOOK.value, span, receive_ns, out, cause=cause, detail=detail, times=times
        )
        self.state = BookState.STALE
        self.suspect = None
        self.renewal = None
        self.audit.reset()
        # First: a failure to publish must not keep the book from being rebuilt.
        self._want()
        self.publish(receive_ns, out, stale=True)

    def _want(self) -> None:
        self._is_owed = not self._is_carried
        if self._is_owed:
            return
        is_urgent = self.state is BookState.STALE
        self._commands.append(FetchSnapshot(self._encoder.symbol, is_urgent, self._attempts))
