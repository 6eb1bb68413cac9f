"""State of one instrument: its four streams, its gaps, and the merging of two connections.

While two connections carry an instrument (the next one is opened before the old one is closed), the
newer may run ahead: events that skip ids are parked until the other has caught up, or for a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from coinmesh_contracts.events.v1.gap_pb2 import GapCause
from coinmesh_sources.gaps import GapLedger
from coinmesh_sources.inputs import Position, Record
from collector_binance.core.bad_input import WrongSymbolError
from collector_binance.core.book import Book
from collector_binance.core.book_parts import BookState, Parts
from collector_binance.core.commands import Command
from collector_binance.core.encode import Encoder, Headers
from collector_binance.core.instruments import VENUE, SymbolInfo
from collector_binance.core.klines import Klines
from collector_binance.core.messages import (
    Channel,
    DepthData,
    TradeData,
    decode_depth,
    decode_kline,
    decode_quote,
    decode_trade,
)
from collector_binance.core.quotes import Quotes
from collector_binance.core.trades import Trades

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast, Lane

D = TypeVar("D")

PARKED_NS: Final = 10**9
PARKED_EVENTS: Final = 10_000
SILENT_NS: Final = 60 * 10**9
_TIMED: Final = frozenset({Channel.KLINE.value})


class Stream(Protocol):
    """Common interface of the streams' states."""

    events: int
    duplicates: int

    @property
    def last_id(self) -> int | None:
        """Return the last native id."""
        ...

    @property
    def last_time(self) -> int | None:
        """Return the venue's time (µs) of the last event; None if there is none."""
        ...


class ByFirstId(Generic[D]):
    """Parked events, lowest id first; a repeated id replaces the earlier event."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._events: dict[int, tuple[D, int, int]] = {}

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self._events)

    def put(self, first_id: int, event: tuple[D, int, int]) -> None:
        """Park an event: its data, time unit and receive time."""
        if first_id not in self._events:
            heappush(self._ids, first_id)
        self._events[first_id] = event

    def pop(self, limit: int | None = None) -> tuple[D, int, int] | None:
        """Remove and return the event with the lowest id; None if there is none up to the limit."""
        if not self._ids or (limit is not None and self._ids[0] > limit):
            return None
        return self._events.pop(heappop(self._ids))


@dataclass(slots=True)
class Parked:
    """Events that skipped ids, by their first id, until the deadline (ns)."""

    deadline: int
    trades: ByFirstId[TradeData] = field(default_factory=ByFirstId[TradeData])
    deltas: ByFirstId[DepthData] = field(default_factory=ByFirstId[DepthData])


Handler = Callable[[bytes, int, int, list[Record]], None]
"""Handles a frame; takes its connection's microseconds per time unit, receive time and output."""


class Market:
    """One instrument's state machines.

    Attributes:
        connections: The connections that carry it now.
        is_released: Whether an operator removed it, even if it was added again since.
        lanes: The compiled core's handlers, by channel.
    """

    def __init__(
        self,
        headers: Headers,
        symbol: str,
        commands: list[Command],
        info: SymbolInfo | None = None,
        fast: Fast | None = None,
        *,
        epoch: int = 0,
    ) -> None:
        self.symbol = symbol
        self.info = info
        self.encoder = Encoder(headers, symbol, info)
        self.gaps = GapLedger(
            VENUE,
            self.encoder.instrument,
            symbol,
            self.encoder.gap_header(),
            timed=_TIMED,
            epoch=epoch,
        )
        self.trades = Trades(self.encoder, self.gaps, commands)
        self.quotes = Quotes(self.encoder)
        parts = Parts() if fast is None else fast.parts()
        self.book = Book(self.encoder, self.gaps, commands, parts)
        self.book.on_restart = self.quotes.restart
        self.klines = Klines(self.gaps, self.trades)
        self.connections: set[str] = set()
        self.is_doubled = False
        self.is_released = False
        self._parked: Parked | None = None
        self._active: dict[Channel, tuple[int, int]] = {}
        self._streams: dict[Channel, Stream] = {
            Channel.TRADE: self.trades,
            Channel.QUOTE: self.quotes,
            Channel.BOOK: self.book,
            Channel.KLINE: self.klines,
        }
        self.handlers: dict[Channel, Handler] = {
            Channel.TRADE: self._on_trade,
            Channel.QUOTE: self._on_quote,
            Channel.BOOK: self._on_depth,
            Channel.KLINE: self._on_kline,
        }
        self.lanes: dict[Channel, Lane] = {} if fast is None else fast.lanes(self)

    def _on_trade(self, frame: bytes, scale: int, receive_ns: int, out: list[Record]) -> None:
        data = decode_trade(frame).data
        if data.symbol != self.symbol:
            raise WrongSymbolError(f"symbol {data.symbol!r} on the stream of {self.symbol}")
        trades = self.trades
        if self.is_doubled and trades.last_id is not None:
            if data.trade_id > trades.last_id + 1:
                # Invalid values are rejected now, not when the parked event is processed.
                self.encoder.trade(data, scale, receive_ns)
                self._park(receive_ns).trades.put(data.trade_id, (data, scale, receive_ns))
                return
            trades.on_trade(data, scale, receive_ns, out)
            self._unpark_continued(out)
        else:
            trades.on_trade(data, scale, receive_ns, out)
        if self.klines.waiting:
            self.klines.settle(receive_ns, out)

    def _on_quote(self, frame: bytes, scale: int, receive_ns: int, out: list[Record]) -> None:
        data = decode_quote(frame).data
        if data.symbol != self.symbol:
            raise WrongSymbolError(f"symbol {data.symbol!r} on the stream of {self.symbol}")
        quotes = self.quotes
        if (
            quotes.on_quote(data, receive_ns, out)
            and quotes.last is not None
            and self.book.audit.on_quote(data.update_id, quotes.last)
        ):
            self.book.on_mismatch(receive_ns, out)

    def _on_depth(self, frame: bytes, scale: int, receive_ns: int, out: list[Record]) -> None:
        data = decode_depth(frame).data
        if data.symbol != self.symbol:
            raise WrongSymbolError(f"symbol {data.symbol!r} on the stream of {self.symbol}")
        book = self.book
        if self.is_doubled and book.state is BookState.SYNCED:
            assert book.last_id is not None
            if data.first_id > book.last_id + 1:
                book.check(data, scale, receive_ns)
                self._park(receive_ns).deltas.put(data.first_id, (data, scale, receive_ns))
                return
            book.on_depth(data, scale, receive_ns, out)
            self._unpark_continued(out)
        else:
            book.on_depth(data, scale, receive_ns, out)

    def _on_kline(self, frame: bytes, scale: int, receive_ns: int, out: list[Record]) -> None:
        data = decode_kline(frame).data
        if data.symbol != self.symbol:
            raise WrongSymbolError(f"symbol {data.symbol!r} on the stream of {self.symbol}")
        self.klines.on_kline(data, scale, receive_ns, out)

    @property
    def deadline(self) -> int | None:
        """Return the next time (ns) at which `on_tick` has an effect; None if nothing waits."""
        parked = self._parked.deadline if self._parked else None
        deadlines = [self.klines.deadline, self.trades.deadline, parked]
        return min((each for each in deadlines if each is not None), default=None)

    def on_tick(self, now_ns: int, out: list[Record]) -> None:
        """Process expired deadlines."""
        self.trades.on_tick(now_ns)
        self.klines.on_tick(now_ns, out)
        if self._parked is not None and now_ns >= self._parked.deadline:
            self.unpark(out)

    def positions(self) -> Iterator[Position]:
        """Yield the positions of the streams that continue after a restart."""
        trades, book, instrument = self.trades, self.book, self.encoder.instrument
        trade_gaps = [*trades.open_gaps, *(gap for gap in trades.given_up if gap.lost)]
        book_gaps = [] if book.gap is None else [book.gap]
        for channel, stream, gaps in (
            (Channel.TRADE, trades, trade_gaps),
            (Channel.BOOK, book, book_gaps),
        ):
            name, last_id = f"{channel}:{self.symbol}", stream.last_id
            if last_id is not None:
                yield Position(name, instrument, self.symbol, last_id, stream.last_time, gaps)
            elif self.is_released:
                yield Position(name, instrument, self.symbol, 0, None, gaps, subscribed=False)

    def stream(self, channel: Channel) -> Stream:
        """Return the state of one channel."""
        return self._streams[channel]

    def look(self, now_ns: int) -> None:
        """Record which channels have had events since the last call; for `state` only."""
        for channel, stream in self._streams.items():
            count = stream.events + stream.duplicates
            if self._active.get(channel, (-1, 0))[0] != count:
                self._active[channel] = (count, now_ns)

    def state(self, channel: Channel, now_ns: int) -> str:
        """Return "live", "buffering", "stale" or "silent" (no event for a minute)."""
        if channel is Channel.BOOK and self.book.state is not BookState.SYNCED:
            return "stale" if self.book.state is BookState.STALE else "buffering"
        if channel in (Channel.BOOK, Channel.TRADE) and not self.connections:
            return "stale"
        self.look(now_ns)
        return "silent" if now_ns - self._active[channel][1] > SILENT_NS else "live"

    def connected(self, connection: str) -> None:
        """Add a connection that carries this instrument from now on."""
        self.connections.add(connection)
        self.is_doubled = len(self.connections) > 1
        self.book.carried(True)

    def disconnected(
        self, connection: str, cause: GapCause.ValueType | None, out: list[Record]
    ) -> None:
        """Remove a connection; the cause is None if the collector closed it."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.is_doubled = len(self.connections) > 1
        if len(self.connections) <= 1:
            self.unpark(out)
        if not self.connections:
            self.book.carried(False)
            self.suspect(cause or GapCause.GAP_CAUSE_DOWNTIME)

    def release(self, receive_ns: int, out: list[Record]) -> None:
        """Stop counting missing events after an operator removed the symbol.

        Later events continue nothing; the repair of open gaps continues.
        """
        self.is_released = True
        self.trades.release()
        self.book.release(receive_ns, out)
        self.quotes.restart()

    def suspect(self, cause: GapCause.ValueType) -> None:
        """Mark all streams as possibly having a gap, with its cause."""
        self.trades.suspect = cause
        self.book.interrupt(cause)

    def unpark(self, out: list[Record]) -> None:
        """Process parked events as they are: the skipped ones did not arrive."""
        parked, self._parked = self._parked, None
        if parked is None:
            return
        while (one := parked.trades.pop()) is not None:
            self.trades.on_trade(*one, out)
        while (delta := parked.deltas.pop()) is not None:
            self.book.on_depth(*delta, out)

    def _park(self, receive_ns: int) -> Parked:
        if self._parked is None:
            self._parked = Parked(receive_ns + PARKED_NS)
        elif len(self._parked.trades) + len(self._parked.deltas) >= PARKED_EVENTS:
            self._parked.deadline = receive_ns
        return self._parked

    def _unpark_continued(self, out: list[Record]) -> None:
        """Process the parked events that continue the events received so far."""
        parked = self._parked
        if parked is None:
            return
        trades, book = self.trades, self.book
        while (one := parked.trades.pop((trades.last_id or 0) + 1)) is not None:
            trades.on_trade(*one, out)
        while (delta := parked.deltas.pop((book.last_id or 0) + 1)) is not None:
            book.on_depth(*delta, out)
        if not parked.trades and not parked.deltas:
            self._parked = None
