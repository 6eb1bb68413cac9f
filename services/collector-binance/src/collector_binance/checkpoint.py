"""The topics as the checkpoint: where an earlier run stopped, read from their tails.

A crash can come between a trade and the record of the gap before it, since they are on different
topics; so ids that are missing between the trades of the tail count as a hole too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from confluent_kafka import Message
from google.protobuf.message import DecodeError

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.gap_pb2 import Gap, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from collector_binance.core.gaps import Span
from collector_binance.core.messages import Channel
from collector_binance.core.session import Checkpoint, Continuation, OpenHole
from collector_binance.settings import CollectorSettings
from meshkit.offsets import Since, Start, Tail
from meshkit.tails import read_to_end

_log = logging.getLogger(__name__)

TAILS: Final = (20_000, 200_000)
BOOK_TAIL: Final = 2_000
# Longer than most outages of Kafka; a new process has a new certificate.
STALL_SECONDS: Final = 600.0
M = TypeVar("M", Trade, Gap, BookUpdate)
_BEFORE_GAP: Final = timedelta(seconds=10)


@dataclass(slots=True)
class Seen:
    """The trades of one instrument that a tail holds."""

    symbol: str
    ids: set[int] = field(default_factory=set)
    live: list[int] = field(default_factory=list)
    last: int = -1
    last_time: int = 0

    def take(self, trade: Trade) -> None:
        """Note a trade; those read over REST have no publish_time and come out of order."""
        is_live = trade.HasField("publish_time")
        if is_live and trade.trade_id < self.last and trade.event_time > self.last_time:
            # A late trade is older than the last one: here the venue's ids began anew.
            self.ids.clear()
            self.live.clear()
            self.last = -1
        self.ids.add(trade.trade_id)
        if is_live:
            self.live.append(trade.trade_id)
        if trade.trade_id > self.last:
            self.last, self.last_time = trade.trade_id, trade.event_time

    def holes(self) -> list[Span]:
        """Ids between trades of the stream that are not there."""
        found: list[Span] = []
        live = sorted(self.live)
        for before, after in itertools.pairwise(live):
            if after - before > 1:
                found += missing_spans((before + 1, after - 1), self.ids)
        return found


def missing_spans(span: Span, present: Iterable[int]) -> list[Span]:
    """The ids of a span that are not present, as spans."""
    first, last = span
    spans: list[Span] = []
    for number in sorted(each for each in set(present) if first <= each <= last):
        if number > first:
            spans.append((first, number - 1))
        first = number + 1
    if first <= last:
        spans.append((first, last))
    return spans


async def read(settings: CollectorSettings, symbols: Iterable[str]) -> Checkpoint:
    """What earlier runs left; waits for Kafka.

    Raises:
        FailedPrecondition: A topic is missing.
    """
    wanted = set(symbols)
    (gaps, oldest), books, seen = await asyncio.gather(
        _gaps(settings), _books(settings), _trades(settings, Tail(TAILS[0]))
    )
    for before, tail in itertools.pairwise(TAILS):
        found = {each.symbol for each in seen.values() if each.live}
        is_all = sum(len(each.ids) for each in seen.values()) < before
        if is_all or wanted <= found:
            break
        seen = await _trades(settings, Tail(tail))
    if oldest is not None:
        since = await _trades(settings, Since(oldest - _BEFORE_GAP))
        for instrument, each in since.items():
            seen.setdefault(instrument, each).ids.update(each.ids)
    checkpoint = Checkpoint()
    for instrument, each in seen.items():
        if each.last < 0:
            continue
        place = Continuation(trade_id=each.last, trade_time=each.last_time)
        place.holes = _open_holes(each, gaps.get(instrument, []))
        checkpoint.symbols[each.symbol] = place
    for symbol, update_id in books.items():
        checkpoint.symbols.setdefault(symbol, Continuation()).book_id = update_id
    _log.info("%d instruments continue from the topics", len(checkpoint.symbols))
    return checkpoint


async def published_ids(
    settings: CollectorSettings, instrument: str, span: Span
) -> AsyncGenerator[list[int], None]:
    """The ids of a span that the topic of trades holds, batch by batch."""
    key = instrument.encode()
    async for batch in _until_end(settings, topics.TRADES.name, "beginning"):
        ids = [_trade(message) for message in batch if message.key() == key]
        yield [each.trade_id for each in ids if each and span[0] <= each.trade_id <= span[1]]


def _open_holes(seen: Seen, gaps: list[Gap]) -> list[OpenHole]:
    holes = [
        OpenHole(
            first_id=gap.ids.first,
            last_id=gap.ids.last,
            missing=missing_spans((gap.ids.first, gap.ids.last), seen.ids),
            cause=gap.cause,
            gap_id=gap.gap_id,
            revision=gap.revision,
            detail=gap.detail,
            start_time=gap.start_time if gap.HasField("start_time") else None,
            end_time=gap.end_time if gap.HasField("end_time") else None,
        )
        for gap in gaps
        if gap.state == GapState.GAP_STATE_OPEN
    ]
    told = [(gap.ids.first, gap.ids.last) for gap in gaps]
    for first, last in seen.holes():
        if not any(begin <= last and first <= end for begin, end in told):
            holes.append(OpenHole(first_id=first, last_id=last, missing=[(first, last)]))
    return holes


async def _gaps(settings: CollectorSettings) -> tuple[dict[str, list[Gap]], datetime | None]:
    """The present state of all trade gaps by instrument, and when the oldest open one began."""
    latest: dict[str, Gap] = {}
    began: dict[str, int] = {}
    async for batch in _until_end(settings, topics.GAPS.name, "beginning"):
        for message in batch:
            gap = _parsed(message, Gap)
            if gap is None or gap.channel != Channel.TRADE:
                continue
            began.setdefault(gap.gap_id, message.timestamp()[1])
            if gap.gap_id not in latest or gap.revision >= latest[gap.gap_id].revision:
                latest[gap.gap_id] = gap
    by_instrument: dict[str, list[Gap]] = {}
    for gap in latest.values():
        by_instrument.setdefault(gap.instrument, []).append(gap)
    open_since = [
        began[name] for name, gap in latest.items() if gap.state == GapState.GAP_STATE_OPEN
    ]
    oldest = datetime.fromtimestamp(min(open_since) / 1000, UTC) if open_since else None
    return by_instrument, oldest


async def _trades(settings: CollectorSettings, start: Start) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    async for batch in _until_end(settings, topics.TRADES.name, start):
        for message in batch:
            trade = _trade(message)
            if trade is not None:
                seen.setdefault(trade.instrument, Seen(trade.symbol)).take(trade)
    return seen


async def _books(settings: CollectorSettings) -> dict[str, int]:
    last: dict[str, int] = {}
    async for batch in _until_end(settings, topics.BOOKS.name, Tail(BOOK_TAIL)):
        for message in batch:
            update = _parsed(message, BookUpdate)
            if update is not None:
                number = update.last_update_id
                last[update.symbol] = max(number, last.get(update.symbol, number))
    return last


def _until_end(
    settings: CollectorSettings, topic: str, start: Start
) -> AsyncGenerator[list[Message], None]:
    client = f"{settings.service_name}-checkpoint"
    return read_to_end(settings, topic, start, client_id=client, stall_seconds=STALL_SECONDS)


def _trade(message: Message) -> Trade | None:
    return _parsed(message, Trade)


def _parsed(message: Message, kind: type[M]) -> M | None:
    """The event in a record; None, with a warning, for what is not one."""
    try:
        return kind.FromString(framing.split(message.value())[1])
    except (framing.FramingError, DecodeError) as error:
        where = f"{message.topic()}[{message.partition()}]@{message.offset()}"
        _log.warning("%s is skipped: %s", where, error)
        return None
