"""Encode events as framed bytes.

Fields that never change for an instrument are serialized once and prepended to the variable fields:
Protobuf fields may be in any order, and the last value of a repeated scalar field is used. The
bytes of an event must therefore never be compared with a new serialization of the same message.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from typing import Final

from google.protobuf.message import Message

from coinmesh_contracts import dead_letters, framing, topics
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate, BookUpdateKind
from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_contracts.events.v1.trade_pb2 import TakerSide, Trade
from coinmesh_sources.inputs import Record
from collector_binance.core import instruments
from collector_binance.core.instruments import VENUE, SymbolInfo
from collector_binance.core.messages import PastTrade, QuoteData, TradeData
from collector_binance.core.units import EXPONENT, Levels, fit, parse, parse_any_scale

WRITTEN: Final = (
    topics.INSTRUMENTS,
    topics.TRADES,
    topics.QUOTES,
    topics.BOOKS,
    topics.GAPS,
    topics.DEAD_LETTERS,
)
"""The topics that the core writes to."""

REPORTER: Final = "collector-binance"
_MAX: Final = (1 << 63) - 1
_TRADES: Final = topics.TRADES.name
_QUOTES: Final = topics.QUOTES.name
_BOOKS: Final = topics.BOOKS.name
_DELTA: Final = BookUpdateKind.BOOK_UPDATE_KIND_DELTA
_BUY: Final = TakerSide.TAKER_SIDE_BUY
_SELL: Final = TakerSide.TAKER_SIDE_SELL


class Headers:
    """The framing headers by topic, built from the registry's schema ids."""

    def __init__(self, schema_ids: Mapping[str, int]) -> None:
        self._by_topic = {topic: framing.header(number) for topic, number in schema_ids.items()}

    @classmethod
    def offline(cls) -> Headers:
        """Return headers for use without a registry: every topic has schema id 1."""
        return cls({topic.name: 1 for topic in WRITTEN})

    def __getitem__(self, topic: topics.Topic) -> bytes:
        return self._by_topic[topic.name]


class Encoder:
    """Encodes the events of one instrument.

    Messages of trades and quotes are reused: every dynamic field is set each time.
    """

    def __init__(self, headers: Headers, symbol: str, info: SymbolInfo | None = None) -> None:
        self.symbol = symbol
        self.instrument = instruments.instrument_name(symbol, info)
        self.key = self.instrument.encode()
        self._headers = headers
        self.trade_head = self._head(topics.TRADES, Trade, EventType.EVENT_TYPE_TRADE)
        self.quote_head = self._head(topics.QUOTES, Quote, EventType.EVENT_TYPE_QUOTE)
        self.book_head = self._head(topics.BOOKS, BookUpdate, EventType.EVENT_TYPE_BOOK)
        self.trade_id = f"{self.instrument}:trade:"
        self.quote_id = f"{self.instrument}:quote:"
        self.book_id = f"{self.instrument}:book:"
        self._trade = Trade()
        # Consecutive trades often have the same price.
        self._price, self._price_text = 0, ""
        self._quote = Quote()

    def _head(
        self, topic: topics.Topic, message: type[Message], kind: EventType.ValueType
    ) -> bytes:
        fixed = message(
            source=VENUE,
            type=kind,
            instrument=self.instrument,
            symbol=self.symbol,
            price_exponent=EXPONENT,
            size_exponent=EXPONENT,
        )
        return self._headers[topic] + fixed.SerializeToString()

    def trade(self, data: TradeData, scale: int, receive_ns: int) -> Record:
        """Encode a trade from its stream; `scale` is the connection's time unit in microseconds.

        Raises:
            DecimalError: Price or size can't be represented.
        """
        if data.price != self._price_text:
            self._price, self._price_text = parse(data.price), data.price
        price, size = self._price, parse(data.size)
        if price > _MAX or size > _MAX:
            return self._odd_trade(
                data, data.trade_time * scale, receive_ns, data.publish_time * scale
            )
        message = self._trade
        message.event_id = f"{self.trade_id}{data.trade_id}"
        message.event_time = data.trade_time * scale
        message.receive_time = receive_ns
        message.trade_id = data.trade_id
        message.price_units = price
        message.size_units = size
        message.taker_side = _SELL if data.buyer_is_maker else _BUY
        message.publish_time = data.publish_time * scale
        return _TRADES, self.key, self.trade_head + message.SerializeToString()

    def past_trade(self, data: PastTrade, scale: int, receive_ns: int) -> Record:
        """Encode a trade that was read over REST.

        Raises:
            DecimalError: Price or size can't be represented.
        """
        return self._odd_trade(data, data.trade_time * scale, receive_ns, None)

    def _odd_trade(
        self, data: TradeData | PastTrade, time: int, receive_ns: int, publish_time: int | None
    ) -> Record:
        price, price_exponent = parse_any_scale(data.price)
        size, size_exponent = parse_any_scale(data.size)
        message = Trade(
            event_id=f"{self.trade_id}{data.trade_id}",
            event_time=time,
            receive_time=receive_ns,
            trade_id=data.trade_id,
            price_units=price,
            price_exponent=price_exponent,
            size_units=size,
            size_exponent=size_exponent,
            taker_side=_SELL if data.buyer_is_maker else _BUY,
            publish_time=publish_time,
        )
        return _TRADES, self.key, self.trade_head + message.SerializeToString()

    def quote(self, data: QuoteData, units: tuple[int, int, int, int], receive_ns: int) -> Record:
        """Encode a quote; `units` are bid price and size, ask price and size at 10^-8.

        Raises:
            DecimalError: A value can't be represented.
        """
        bid_price, bid_size, ask_price, ask_size = units
        message = self._quote
        message.event_id = f"{self.quote_id}{data.update_id}"
        message.receive_time = receive_ns
        message.update_id = data.update_id
        try:
            message.bid_price_units = bid_price
            message.bid_size_units = bid_size
            message.ask_price_units = ask_price
            message.ask_size_units = ask_size
        except ValueError:  # beyond 64 bits
            return self._odd_quote(data, units, receive_ns)
        return _QUOTES, self.key, self.quote_head + message.SerializeToString()

    def _odd_quote(
        self, data: QuoteData, units: tuple[int, int, int, int], receive_ns: int
    ) -> Record:
        (bid_price, ask_price), price_exponent = fit(units[::2])
        (bid_size, ask_size), size_exponent = fit(units[1::2])
        message = Quote(
            event_id=f"{self.quote_id}{data.update_id}",
            receive_time=receive_ns,
            update_id=data.update_id,
            bid_price_units=bid_price,
            bid_size_units=bid_size,
            ask_price_units=ask_price,
            ask_size_units=ask_size,
            price_exponent=price_exponent,
            size_exponent=size_exponent,
        )
        return _QUOTES, self.key, self.quote_head + message.SerializeToString()

    def delta(
        self, ids: tuple[int, int], bids: Levels, asks: Levels, receive_ns: int, event_time: int
    ) -> Record:
        """Encode a change of the book, with the same result as `book`."""
        try:
            message = BookUpdate(
                event_id=f"{self.book_id}delta:{ids[1]}",
                event_time=event_time,
                receive_time=receive_ns,
                kind=_DELTA,
                first_update_id=ids[0],
                last_update_id=ids[1],
                bid_price_units=bids[0],
                bid_size_units=bids[1],
                ask_price_units=asks[0],
                ask_size_units=asks[1],
            )
        except ValueError:  # beyond 64 bits
            return self.book(_DELTA, ids, bids, asks, receive_ns, event_time=event_time)
        return _BOOKS, self.key, self.book_head + message.SerializeToString()

    def book(
        self,
        kind: BookUpdateKind.ValueType,
        ids: tuple[int, int],
        bids: Levels,
        asks: Levels,
        receive_ns: int,
        *,
        event_time: int | None = None,
        stale: bool = False,
        trusted: tuple[int | None, int | None] = (None, None),
    ) -> Record:
        """Encode a delta or snapshot of the book; a side is its prices and its sizes at 10^-8.

        Raises:
            DecimalError: A value can't be represented.
        """
        name = "delta" if kind == _DELTA else "snapshot"
        low, high = trusted
        message = BookUpdate(
            event_id=f"{self.book_id}{name}:{ids[1]}{':stale' if stale else ''}",
            event_time=event_time,
            receive_time=receive_ns,
            kind=kind,
            first_update_id=ids[0],
            last_update_id=ids[1],
            stale=stale,
        )
        try:
            message.bid_price_units.extend(bids[0])
            message.bid_size_units.extend(bids[1])
            message.ask_price_units.extend(asks[0])
            message.ask_size_units.extend(asks[1])
        except ValueError:  # beyond 64 bits
            price_exponent = _refill(
                message.bid_price_units, bids[0], message.ask_price_units, asks[0]
            )
            size_exponent = _refill(
                message.bid_size_units, bids[1], message.ask_size_units, asks[1]
            )
            message.price_exponent, message.size_exponent = price_exponent, size_exponent
            shrink = 10 ** (price_exponent - EXPONENT)
            low = None if low is None else -(-low // shrink)
            high = None if high is None else high // shrink
        if low is not None:
            message.trusted_low_units = low
        if high is not None:
            message.trusted_high_units = high
        return _BOOKS, self.key, self.book_head + message.SerializeToString()

    def gap_header(self) -> bytes:
        """Return the framing header of gaps."""
        return self._headers[topics.GAPS]


def _refill(
    bid_field: MutableSequence[int],
    bids: Sequence[int],
    ask_field: MutableSequence[int],
    asks: Sequence[int],
) -> int:
    fitted, exponent = fit([*bids, *asks])
    bid_field[:] = fitted[: len(bids)]
    ask_field[:] = fitted[len(bids) :]
    return exponent


def instrument_record(headers: Headers, info: SymbolInfo, receive_ns: int) -> Record:
    """Encode an instrument's definition.

    Raises:
        DecimalError: A filter's number is not a plain decimal.
    """
    message = instruments.definition(info)
    message.receive_time = receive_ns
    value = headers[topics.INSTRUMENTS] + message.SerializeToString()
    return topics.INSTRUMENTS.name, message.instrument.encode(), value


def dead_letter(
    headers: Headers,
    *,
    origin: str,
    reason: str,
    detail: str,
    value: bytes,
    receive_ns: int,
    encoder: Encoder | None = None,
) -> Record:
    """Encode a dead letter for invalid input; `origin` is connection and sequence number."""
    message = dead_letters.of_input(
        origin=origin,
        source=VENUE,
        receive_time=receive_ns,
        value=value,
        reason=reason,
        detail=detail,
        reporter=REPORTER,
        instrument=encoder.instrument if encoder else "",
        symbol=encoder.symbol if encoder else "",
    )
    key = encoder.key if encoder else origin.rpartition(":")[0].encode()
    return topics.DEAD_LETTERS.name, key, headers[topics.DEAD_LETTERS] + message.SerializeToString()
