"""The collector's logic: inputs in, framed events and commands out.

Every input has a position in the session's order. The same inputs in the same order produce the
same events, so recorded inputs can be replayed; time is only taken from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_contracts.events.v1.gap_pb2 import GapCause
from coinmesh_sources.inputs import Input, Position, Process, Record
from collector_binance.core import session
from collector_binance.core.bad_input import BAD_INPUT, reason_of
from collector_binance.core.commands import Command, ControlReply
from collector_binance.core.encode import Headers, dead_letter, instrument_record
from collector_binance.core.instruments import (
    SymbolInfo,
    decode_exchange_info,
    decode_symbol_info,
)
from collector_binance.core.market import Handler, Market
from collector_binance.core.messages import (
    CHANNEL_OF,
    STREAMS,
    Channel,
    channel_of,
    decode_book_snapshot,
    decode_control,
    decode_past_trades,
    decode_shape,
)

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast, Lane

MICROSECONDS: Final = 1
MILLISECONDS: Final = 1000
_MESSAGE: Final = FrameKind.FRAME_KIND_MESSAGE
_PREFIX: Final = len(b'{"stream":"')

Route = tuple[Handler, Market, Channel, "Lane | None"]
"""Handler, market, channel and compiled lane of a stream."""


@dataclass(slots=True)
class Link:
    """The engine's state of a connection: its time unit and the routes of its streams."""

    name: str
    scale: int
    routes: dict[bytes, Route] = field(default_factory=dict)
    messages: int = 0


@dataclass(slots=True)
class Counters:
    """Counters of the engine that do not belong to an instrument."""

    dead_letters: dict[str, int] = field(default_factory=dict)
    ignored: int = 0


def time_scale(url: str) -> int:
    """Return the microseconds per time unit of a connection, from its URL."""
    unit = parse_qs(urlsplit(url).query).get("timeUnit", ["MILLISECOND"])[0]
    return MICROSECONDS if unit.upper() == "MICROSECOND" else MILLISECONDS


class Engine:
    """All instruments and connections of one collector.

    Attributes:
        process: The hot path; the compiled core's if there is one.
        commands: Actions for the service; the caller removes them.
        sequence: Position of the next input in the session's order.
    """

    def __init__(self, headers: Headers, *, fast: type[Fast] | None = None) -> None:
        self.headers = headers
        self.commands: list[Command] = []
        self.markets: dict[str, Market] = {}
        self.links: dict[str, Link] = {}
        self.infos: dict[str, SymbolInfo] = {}
        self.restored: dict[str, session.Continuation] = {}
        self.epoch = 0
        self.counters = Counters()
        self.sequence = 0
        self._fast = None if fast is None else fast(self)
        self.process: Process = self.process_any if self._fast is None else self._fast.process

    def apply(self, given: Input) -> list[Record]:
        """Process any input and return the resulting events."""
        kind = given.kind
        if kind == FrameKind.FRAME_KIND_MESSAGE:
            return self.process(given.payload, given.receive_ns, given.connection)
        if kind == FrameKind.FRAME_KIND_TICK:
            return self.tick(given.receive_ns) or []
        self.sequence += 1
        out: list[Record] = []
        handlers: dict[int, Callable[[Input, list[Record]], None]] = {
            FrameKind.FRAME_KIND_REST: self._rest,
            FrameKind.FRAME_KIND_CONNECT: self._connect,
            FrameKind.FRAME_KIND_DISCONNECT: self._disconnect,
            FrameKind.FRAME_KIND_SUBSCRIPTION: self._subscription,
        }
        try:
            handlers[kind](given, out)
        except BAD_INPUT as error:
            self._reject(given, error, out)
        return out

    def process_any(self, frame: bytes, receive_ns: int, connection: str) -> list[Record]:
        """Process any WebSocket message in Python and return the resulting events."""
        self.sequence += 1
        out: list[Record] = []
        link = self.links.get(connection)
        if link is None:
            link = self.links[connection] = Link(connection, MILLISECONDS)
        link.messages += 1
        # {"stream":"btcusdt@trade", ...: the name selects the handler without a second parse.
        route = link.routes.get(frame[_PREFIX : frame.find(b'"', _PREFIX)])
        try:
            if route is None:
                self._unrouted(frame, receive_ns, link, out)
            else:
                route[0](frame, link.scale, receive_ns, out)
        except BAD_INPUT as error:
            self.undecodable(Input(_MESSAGE, connection, receive_ns, frame), route, error, out)
        return out

    def tick(self, now_ns: int) -> list[Record] | None:
        """Process expired deadlines; return None if there are none: the call is then no input."""
        due = [
            market
            for market in self.markets.values()
            if market.deadline is not None and market.deadline <= now_ns
        ]
        if not due:
            return None
        self.sequence += 1
        out: list[Record] = []
        for market in due:
            try:
                market.on_tick(now_ns, out)
            except BAD_INPUT as error:
                given = Input(FrameKind.FRAME_KIND_TICK, market.symbol, now_ns)
                self._reject(given, error, out, market)
        return out

    @property
    def deadline(self) -> int | None:
        """Return the next time (ns) at which `tick` has an effect; None if there is none."""
        deadlines = [market.deadline for market in self.markets.values()]
        return min((each for each in deadlines if each is not None), default=None)

    def positions(self) -> Iterator[Position]:
        """Yield the position of every stream, including restored ones not collected yet."""
        for symbol, left in self.restored.items():
            yield from left.positions(symbol)
        for market in self.markets.values():
            yield from market.positions()

    def market(self, symbol: str) -> Market:
        """Return the market of a symbol; create it if it is new."""
        market = self.markets.get(symbol)
        if market is None:
            market = Market(
                self.headers,
                symbol,
                self.commands,
                self.infos.get(symbol),
                self._fast,
                epoch=self.epoch,
            )
            self.markets[symbol] = market
        return market

    def define(self, info: SymbolInfo, receive_ns: int, out: list[Record]) -> None:
        """Apply a symbol's exchangeInfo entry and publish its definition if it changed."""
        if self.infos.get(info.symbol) == info:
            return
        # Stored first: name and status are valid even if a number can't be published.
        self.infos[info.symbol] = info
        market = self.markets.get(info.symbol)
        if market is not None:
            market.info = info
        out.append(instrument_record(self.headers, info, receive_ns))

    # Inputs

    def _connect(self, given: Input, out: list[Record]) -> None:
        if given.payload:
            session.begin(self, given.payload)
        self.links[given.connection] = Link(given.connection, time_scale(given.context))

    def _disconnect(self, given: Input, out: list[Record]) -> None:
        link = self.links.pop(given.connection, None)
        cause = session.disconnect_cause(given.context)
        carried = {each[1].symbol: each[1] for each in link.routes.values()} if link else {}
        for market in carried.values():
            market.disconnected(given.connection, cause, out)

    def _subscription(self, given: Input, out: list[Record]) -> None:
        if given.context == session.BACKFILL:
            session.backfill(self, given.payload, given.receive_ns, out)
            return
        if given.context == session.RETRY_GAP:
            session.retry_gap(self, given.payload, given.receive_ns, out)
            return
        if given.context == session.RELEASE:
            session.release(self, given.payload, given.receive_ns, out)
            return
        message = decode_control(given.payload)
        link = self.links.get(given.connection) or Link(given.connection, MILLISECONDS)
        self.links[given.connection] = link
        for name in message.params:
            symbol, _, stream = name.partition("@")
            channel = CHANNEL_OF.get(stream)
            if channel is None:
                continue
            if message.method == "SUBSCRIBE":
                market = self.market(symbol.upper())
                session.restore(self, market, given.receive_ns, out)
                self.route(link, name, market, channel)
            elif (route := link.routes.pop(name.encode(), None)) is not None:
                left = any(each[1] is route[1] for each in link.routes.values())
                if not left:
                    route[1].disconnected(link.name, None, out)
                    if route[1].is_released:
                        # The symbol was removed while this connection was being opened.
                        route[1].release(given.receive_ns, out)

    def _rest(self, given: Input, out: list[Record]) -> None:
        path, _, query = given.context.partition(" ")[2].partition("?")
        arguments = {name: values[0] for name, values in parse_qs(query).items()}
        if path.endswith("/exchangeInfo") and given.status == 200:
            self._definitions(given, out)
            return
        if path.endswith("/depth") and "symbol" not in arguments:
            self.unnamed_snapshot(given.payload, given.receive_ns, out)
            return
        market = self.markets.get(arguments.get("symbol", ""))
        if market is None:
            return
        if path.endswith("/depth") and given.status != 200:
            market.book.refused()
        elif path.endswith("/depth"):
            try:
                snapshot = decode_book_snapshot(given.payload)
                limit = int(arguments["limit"]) if "limit" in arguments else None
                market.book.on_snapshot(snapshot, given.receive_ns, out, limit)
            except BAD_INPUT:
                market.book.refused()
                raise
        elif path.endswith("/historicalTrades"):
            self._past_trades(market, given, arguments, out)

    def _definitions(self, given: Input, out: list[Record]) -> None:
        """Apply the entries of exchangeInfo; each invalid entry becomes a dead letter."""
        for number, raw in enumerate(decode_exchange_info(given.payload).symbols):
            try:
                self.define(decode_symbol_info(raw), given.receive_ns, out)
            except BAD_INPUT as error:
                entry = replace(given, payload=bytes(raw))
                self._reject(entry, error, out, place=f":{number}")

    def _past_trades(
        self, market: Market, given: Input, arguments: dict[str, str], out: list[Record]
    ) -> None:
        receive_ns = given.receive_ns
        if given.status != 200:
            body = given.payload[:200].decode("utf-8", "replace")
            # Without a status the body is the reason.
            reason = f"HTTP {given.status}: {body}" if given.status else f"no usable answer: {body}"
            market.trades.refused(reason, receive_ns, out)
            return
        # Requested with X-MBX-TIME-UNIT: MICROSECOND.
        try:
            trades = decode_past_trades(given.payload)
            asked_from = int(arguments["fromId"])
            market.trades.on_past_trades(asked_from, trades, MICROSECONDS, receive_ns, out)
        except BAD_INPUT:
            market.trades.refused("the venue's answer can't be read", receive_ns, out)
            raise
        finally:
            market.klines.settle(receive_ns, out)

    def unnamed_snapshot(self, payload: bytes, receive_ns: int, out: list[Record]) -> bool:
        """Process a book snapshot without its symbol; return False if that is not supported."""
        del payload, receive_ns, out
        return False

    def admits(self, link: Link, name: str, symbol: str, channel: Channel) -> bool:
        """Return whether to route the stream of a message without a subscription from now on."""
        del link, name, symbol, channel
        return False

    # Frames off the fast path

    def route(self, link: Link, name: str, market: Market, channel: Channel) -> None:
        """Route a stream of a connection to its market."""
        handler, lane = market.handlers[channel], market.lanes.get(channel)
        link.routes[name.encode()] = (handler, market, channel, lane)
        market.connected(link.name)

    def _unrouted(self, frame: bytes, receive_ns: int, link: Link, out: list[Record]) -> None:
        if frame[:1] == b"[":
            msgspec.json.decode(frame)
            self.counters.ignored += 1
            return
        shape = decode_shape(frame)
        if shape.is_control_reply or shape.is_shutdown:
            self.commands.append(ControlReply(link.name, frame))
            return
        if shape.last_update_id is not None and self.unnamed_snapshot(frame, receive_ns, out):
            return
        data = bytes(shape.data)
        if shape.stream is not None and data:
            self._enveloped(shape.stream, data, Input(_MESSAGE, link.name, receive_ns, frame), out)
        elif shape.symbol is not None and (channel := channel_of(shape)) is not None:
            name = f"{shape.symbol.lower()}@{STREAMS[channel]}"
            self._enveloped(name, frame, Input(_MESSAGE, link.name, receive_ns, frame), out)
        elif shape.event is not None:
            self.counters.ignored += 1
        else:
            raise ValueError("not a message that this collector knows")

    def _enveloped(self, name: str, data: bytes, given: Input, out: list[Record]) -> None:
        """Process a message's data under its stream name or the name derived from its type."""
        link = self.links[given.connection]
        symbol, _, stream = name.partition("@")
        if not symbol:
            raise ValueError("the stream's name has no symbol")
        channel = CHANNEL_OF.get(stream)
        if channel is None:
            self.counters.ignored += 1
            return
        route = link.routes.get(name.encode())
        if route is None:
            if not self.admits(link, name, symbol.upper(), channel):
                self.counters.ignored += 1
                return
            route = link.routes[name.encode()]
        try:
            route[0](b'{"data":' + data + b"}", link.scale, given.receive_ns, out)
        except BAD_INPUT as error:
            self.undecodable(given, route, error, out)

    # Bad input

    def undecodable(
        self, given: Input, route: Route | None, error: Exception, out: list[Record]
    ) -> None:
        """Write a dead letter for an invalid message; mark the cause of the gap it may leave."""
        cause = GapCause.GAP_CAUSE_MALFORMED_FRAME
        link = self.links[given.connection]
        for _, market, channel, _ in [route] if route else _named(link, given.payload):
            if channel is Channel.TRADE:
                market.trades.suspect = market.trades.suspect or cause
            elif channel is Channel.BOOK:
                market.book.suspect = market.book.suspect or cause
        self._reject(given, error, out, route[1] if route else None)

    def _reject(
        self,
        given: Input,
        error: Exception,
        out: list[Record],
        market: Market | None = None,
        place: str = "",
    ) -> None:
        reason = reason_of(error)
        self.counters.dead_letters[reason] = self.counters.dead_letters.get(reason, 0) + 1
        out.append(
            dead_letter(
                self.headers,
                origin=f"{given.connection}:{self.sequence - 1}{place}",
                reason=reason,
                detail=str(error),
                value=given.payload,
                receive_ns=given.receive_ns,
                encoder=market.encoder if market else None,
            )
        )


def _named(link: Link, frame: bytes) -> list[Route]:
    """Return the possible routes of a damaged frame: those it names, or the only market's."""
    routes = list(link.routes.items())
    named = [route for name, route in routes if name in frame]
    is_one = len({id(route[1]) for _, route in routes}) == 1
    return [route for _, route in routes] if is_one and not named else named
