"""The positions at which a session continues: checkpoints, and events after their last round.

Trades and gap records are on different topics, so a crash can come between a trade and the record
of a gap next to it. Ids missing between the trades of the tail are therefore also a gap, and the
end of an open gap counts as seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources import checkpoints
from coinmesh_sources.checkpoints import Saved
from coinmesh_sources.gaps import OpenGap, Span, missing_spans, without
from collector_binance.core.instruments import VENUE
from collector_binance.core.messages import Channel
from collector_binance.core.restart import Restart
from collector_binance.core.session import Checkpoint, Continuation, SavedGap
from collector_binance.settings import CollectorSettings

_ENDED = (GapState.GAP_STATE_REPAIRED, GapState.GAP_STATE_RESYNCED)


@dataclass(slots=True)
class Tail:
    """One stream: its checkpoint, and the records of the topics after it.

    Attributes:
        base: The last id of the checkpoint; every id above it is in the tail or missing.
        last: The highest id.
        last_time: That event's time, microseconds.
        gaps: Gaps by gap id; by span if an earlier start ended before their first record.
        reported: Spans of all gaps with a record, whatever their state.
    """

    base: int | None = None
    last: int | None = None
    last_time: int = 0
    ids: set[int] = field(default_factory=set[int])
    gaps: dict[str | Span, OpenGap] = field(default_factory=dict[str | Span, OpenGap])
    reported: list[Span] = field(default_factory=list[Span])
    _restart: Restart = field(default_factory=Restart)

    def add_trade(self, trade: Trade) -> None:
        """Add a published trade; trades read over REST have no publish_time and are late."""
        number, is_live = trade.trade_id, trade.HasField("publish_time")
        last = self.last
        if is_live and last is not None and number < last and self._began_anew(trade):
            self.ids.clear()
            self.base, self.last = number - 1, None
        if is_live and self.base is None:
            self.base = number - 1
        self.ids.add(number)
        if self.last is None or number > self.last:
            self.last, self.last_time = number, trade.event_time

    def _began_anew(self, trade: Trade) -> bool:
        """Return whether the venue's ids restarted, by the same rule as the engine."""
        return self._restart.is_new(trade.trade_id, trade.event_time, self.last_time)

    def add_gap(self, gap: Gap) -> None:
        """Add a published record of a gap, in the order of its revisions."""
        span = (gap.ids.first, gap.ids.last)
        self.reported.append(span)
        known = self.gaps.get(gap.gap_id) or self.gaps.pop(span, None)
        if known is not None and gap.revision < known.revision:
            return
        is_after = gap.HasField("start_time") and gap.start_time >= self.last_time
        if gap.channel == Channel.TRADE and is_after and self.last is not None:
            # The trades of the gap and those before it may not have reached the topic.
            self.last = max(self.last, span[1])
        is_lost = gap.state == GapState.GAP_STATE_UNREPAIRABLE
        # A book gap is not repaired by ids, so it is never reopened.
        if gap.state in _ENDED or (is_lost and gap.channel == Channel.BOOK):
            self.gaps.pop(gap.gap_id, None)
            return
        spans = [*known.missing, *known.lost] if known is not None else [span]
        self.gaps[gap.gap_id] = OpenGap(
            channel=gap.channel,
            first=span[0],
            last=span[1],
            cause=gap.cause,
            detail=gap.detail,
            start_time=gap.start_time if gap.HasField("start_time") else None,
            end_time=gap.end_time if gap.HasField("end_time") else None,
            missing=[] if is_lost else spans,
            lost=spans if is_lost else [],
            failed_attempts=gap.failed_attempts,
            refused_ns=known.refused_ns if known is not None else 0,
            gap_id=gap.gap_id,
            revision=gap.revision,
            state=gap.state,
        )

    def saved_gaps(self) -> list[SavedGap]:
        """Return all gaps that are not repaired, including those without a record yet."""
        saved: list[SavedGap] = []
        for gap in self.gaps.values():
            for number in self.ids:
                if gap.first <= number <= gap.last:
                    gap.fill(number)
            saved.append(SavedGap.of(gap))
        if self.base is None or self.last is None:
            return saved
        unreported = without(missing_spans((self.base + 1, self.last), self.ids), self.reported)
        return saved + [SavedGap(first, last, [(first, last)]) for first, last in unreported]

    def include_lost(self) -> None:
        """Extend gaps to the last id: the events in between may not have reached the topic."""
        for gap in self.gaps.values():
            if self.last is not None and gap.first > self.last + 1:
                gap.first = self.last + 1
                gap.missing = [(gap.first, gap.last)]


async def restore(settings: CollectorSettings, saved: Saved) -> Checkpoint:
    """Return the state of earlier runs; read the topics' tails and wait for Kafka.

    Raises:
        FailedPrecondition: A topic is missing.
    """
    tails: dict[str, dict[str, Tail]] = {Channel.TRADE: {}, Channel.BOOK: {}}
    symbols: dict[str, str] = {}
    removed = {symbol for symbol, is_added in saved.subscriptions.items() if not is_added}
    for each in saved.streams.values():
        channel = each.stream.partition(":")[0]
        if channel not in tails:
            continue
        symbols[each.instrument] = each.symbol
        gaps = [checkpoints.open_gap(channel, gap) for gap in each.open_gaps]
        # After a removal only the repair of gaps is continued.
        last_id = each.last_id if each.subscribed else None
        tails[channel][each.instrument] = Tail(
            base=last_id if channel == Channel.TRADE else None,
            last=last_id,
            last_time=each.event_time,
            gaps={gap.gap_id or (gap.first, gap.last): gap for gap in gaps},
            reported=[(gap.first, gap.last) for gap in gaps],
        )
    if saved.since is not None:
        await _read_tails(settings, saved.since, tails, symbols)
    nothing = Tail()
    continued: dict[str, Continuation] = {}
    for instrument, symbol in symbols.items():
        trades = tails[Channel.TRADE].get(instrument, nothing)
        book = tails[Channel.BOOK].get(instrument, nothing)
        book.include_lost()
        continued[symbol] = Continuation(
            instrument=instrument,
            trade_id=trades.last,
            trade_time=trades.last_time if trades.last is not None else None,
            book_id=book.last,
            gaps=trades.saved_gaps(),
            book_gaps=book.saved_gaps(),
        )
        if symbol in removed:
            continued[symbol].release()
    return Checkpoint(continued)


async def _read_tails(
    settings: CollectorSettings,
    since: datetime,
    tails: dict[str, dict[str, Tail]],
    symbols: dict[str, str],
) -> None:
    client = checkpoints.client_of(settings.service_name)

    def tail(channel: str, event: Trade | Gap | BookUpdate) -> Tail:
        symbols[event.instrument] = event.symbol
        return tails[channel].setdefault(event.instrument, Tail())

    async for message in checkpoints.records(settings, client, topics.TRADES, since):
        trade = checkpoints.parsed(message, Trade)
        if trade is not None and trade.source == VENUE:
            tail(Channel.TRADE, trade).add_trade(trade)
    async for message in checkpoints.records(settings, client, topics.GAPS, since):
        gap = checkpoints.parsed(message, Gap)
        if gap is not None and gap.source == VENUE and gap.channel in tails:
            tail(gap.channel, gap).add_gap(gap)
    async for message in checkpoints.records(settings, client, topics.BOOKS, since):
        update = checkpoints.parsed(message, BookUpdate)
        if update is not None and update.source == VENUE:
            tail(Channel.BOOK, update).last = update.last_update_id
