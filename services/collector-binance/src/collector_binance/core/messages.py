"""Binance messages as typed structs, a decoder for each, and their classification.

Field letters: https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md
`U`/`u`, `b`/`B`, `T`/`t` differ by case alone; bookTicker and REST bodies have no event type.
Prices stay text here: `units` converts them exactly.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

Id = Annotated[int, Meta(ge=0, lt=1 << 62)]
"""A trade or update id."""

Time = Annotated[int, Meta(ge=0, lt=1 << 52)]
"""A time in the connection's unit; small enough that 1,000 times it fits 63 bits."""

Level = tuple[str, str]
"""One level of a book: price and size."""


class Channel(StrEnum):
    """A channel of an instrument; the value is the channel's name in Gap and in RPCs."""

    TRADE = "trade"
    QUOTE = "quote"
    BOOK = "book"
    KLINE = "kline_1m"


STREAMS: Final = {
    Channel.TRADE: "trade",
    Channel.QUOTE: "bookTicker",
    Channel.BOOK: "depth@100ms",
    Channel.KLINE: "kline_1m",
}
"""The stream of each channel, without `<symbol>@`."""

CHANNEL_OF: Final = {name: channel for channel, name in STREAMS.items()} | {"depth": Channel.BOOK}


class TradeData(Struct, gc=False):
    """`<symbol>@trade`."""

    symbol: str = field(name="s")
    trade_id: Id = field(name="t")
    price: str = field(name="p")
    size: str = field(name="q")
    trade_time: Time = field(name="T")
    publish_time: Time = field(name="E")
    buyer_is_maker: bool = field(name="m")


class QuoteData(Struct, gc=False):
    """`<symbol>@bookTicker`; it has no time on spot."""

    symbol: str = field(name="s")
    update_id: Id = field(name="u")
    bid_price: str = field(name="b")
    bid_size: str = field(name="B")
    ask_price: str = field(name="a")
    ask_size: str = field(name="A")


class DepthData(Struct):
    """`<symbol>@depth`: the levels that changed in updates first_id to last_id, as JSON."""

    symbol: str = field(name="s")
    publish_time: Time = field(name="E")
    first_id: Id = field(name="U")
    last_id: Id = field(name="u")
    bids: msgspec.Raw = field(name="b")
    asks: msgspec.Raw = field(name="a")


class Kline(Struct):
    """The bar inside `<symbol>@kline_1m`."""

    start_time: Time = field(name="t")
    end_time: Time = field(name="T")
    interval: str = field(name="i")
    first_trade_id: int = field(name="f")
    last_trade_id: int = field(name="L")
    open: str = field(name="o")
    high: str = field(name="h")
    low: str = field(name="l")
    close: str = field(name="c")
    volume: str = field(name="v")
    trade_count: int = field(name="n")
    closed: bool = field(name="x")
    quote_volume: str = field(name="q")
    taker_buy_volume: str = field(name="V")


class KlineData(Struct):
    """`<symbol>@kline_1m`."""

    symbol: str = field(name="s")
    kline: Kline = field(name="k")


class _TradeFrame(Struct, gc=False):
    data: TradeData


class _QuoteFrame(Struct, gc=False):
    data: QuoteData


class _DepthFrame(Struct):
    data: DepthData


class _KlineFrame(Struct):
    data: KlineData


decode_trade: Final = msgspec.json.Decoder(_TradeFrame).decode
decode_quote: Final = msgspec.json.Decoder(_QuoteFrame).decode
decode_depth: Final = msgspec.json.Decoder(_DepthFrame).decode
decode_kline: Final = msgspec.json.Decoder(_KlineFrame).decode


class BookSnapshot(Struct):
    """REST depth: the whole book at `last_update_id`, its sides as JSON; no symbol, no time."""

    last_update_id: Id = field(name="lastUpdateId")
    bids: msgspec.Raw
    asks: msgspec.Raw


class PastTrade(Struct, gc=False):
    """One element of REST historicalTrades."""

    trade_id: Id = field(name="id")
    price: str
    size: str = field(name="qty")
    trade_time: Time = field(name="time")
    buyer_is_maker: bool = field(name="isBuyerMaker")


decode_levels: Final = msgspec.json.Decoder(list[Level]).decode
decode_book_snapshot: Final = msgspec.json.Decoder(BookSnapshot).decode
decode_past_trades: Final = msgspec.json.Decoder(list[PastTrade]).decode


_ABSENT: Final = msgspec.Raw()


class Shape(Struct):
    """The fields that identify an unrouted message; a missing one is None or an empty Raw."""

    stream: str | None = None
    data: msgspec.Raw = _ABSENT
    event: str | None = field(name="e", default=None)
    symbol: str | None = field(name="s", default=None)
    update_id: int | None = field(name="u", default=None)
    bid_size: msgspec.Raw = field(name="B", default=_ABSENT)
    kline: msgspec.Raw = field(name="k", default=_ABSENT)
    last_update_id: int | None = field(name="lastUpdateId", default=None)
    code: int | None = None
    error: msgspec.Raw = _ABSENT
    result: msgspec.Raw = _ABSENT

    @property
    def is_control_reply(self) -> bool:
        """Return whether this answers one of the collector's control messages."""
        return self.stream is None and (
            bytes(self.result) != b"" or self.code is not None or bytes(self.error) != b""
        )

    @property
    def is_shutdown(self) -> bool:
        """Return whether the server announces a close of the connection (in either envelope)."""
        return "serverShutdown" in (self.event, (self.stream or "").removeprefix("!"))


decode_shape: Final = msgspec.json.Decoder(Shape).decode


class _Interval(Struct):
    interval: str = field(name="i")


_decode_interval: Final = msgspec.json.Decoder(_Interval).decode


def channel_of(shape: Shape) -> Channel | None:
    """Return the channel of a market event without envelope; None if it is not collected."""
    if shape.event == "trade":
        return Channel.TRADE
    if shape.event == "depthUpdate":
        return Channel.BOOK
    if shape.event == "kline":
        return Channel.KLINE if _decode_interval(shape.kline).interval == "1m" else None
    if shape.event is None and shape.update_id is not None and bytes(shape.bid_size):
        return Channel.QUOTE
    return None


class ControlMessage(Struct):
    """A control message to the exchange: SUBSCRIBE or UNSUBSCRIBE."""

    method: str
    params: list[str]
    id: int


decode_control: Final = msgspec.json.Decoder(ControlMessage).decode


class Reply(Struct):
    """An answer to a control message."""

    id: int | str | None = None
    code: int | None = None
    msg: str | None = None
    error: Any = None


_decode_reply: Final = msgspec.json.Decoder(Reply).decode


def read_reply(frame: bytes) -> Reply | None:
    """Return the answer in a frame; None if the frame is not an answer."""
    try:
        return _decode_reply(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
