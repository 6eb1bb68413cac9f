"""Instruments from exchangeInfo, and names for symbols when there is no exchangeInfo."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import Struct, field

from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from collector_binance.core.units import EXPONENT, parse

VENUE: Final = "binance"

# Where a symbol's base ends when nobody tells: the longest of these that it ends in is its quote.
_QUOTES: Final = sorted(
    "USDT FDUSD USDC TUSD BUSD USDP USD1 USDE USDS PAX DAI UST IDRT BIDR BVND BKRW BTC ETH BNB TRX"
    " XRP DOGE SOL DOT VAI EUR EURI AEUR GBP AUD TRY BRL RUB UAH NGN ZAR PLN RON ARS JPY MXN CZK"
    " COP USD".split(),
    key=len,
    reverse=True,
)


class Filter(Struct):
    """One filter of a symbol; their order is not promised, so they are found by type."""

    filter_type: str = field(name="filterType")
    tick_size: str | None = field(name="tickSize", default=None)
    step_size: str | None = field(name="stepSize", default=None)
    min_notional: str | None = field(name="minNotional", default=None)


class SymbolInfo(Struct):
    """What exchangeInfo says about a symbol."""

    symbol: str
    status: str
    base_asset: str = field(name="baseAsset")
    quote_asset: str = field(name="quoteAsset")
    filters: list[Filter] = field(default_factory=list)

    def filter(self, filter_type: str) -> Filter | None:
        """The filter of a type, None when the venue states none."""
        return next((each for each in self.filters if each.filter_type == filter_type), None)


class SymbolName(Struct):
    """The name in an entry that can't be read otherwise."""

    symbol: str


class RateLimit(Struct):
    """One of the venue's limits."""

    kind: str = field(name="rateLimitType")
    interval: str
    count: int = field(name="intervalNum")
    limit: int


class ExchangeInfo(Struct):
    """REST exchangeInfo; symbols stay raw, so that those we collect can be recorded as received."""

    symbols: list[msgspec.Raw]
    rate_limits: list[RateLimit] = field(name="rateLimits", default_factory=list)

    def weight_per_minute(self) -> int | None:
        """The request weight that the venue allows in a minute, None when it doesn't say."""
        for each in self.rate_limits:
            if (each.kind, each.interval, each.count) == ("REQUEST_WEIGHT", "MINUTE", 1):
                return each.limit
        return None


decode_exchange_info: Final = msgspec.json.Decoder(ExchangeInfo).decode
decode_symbol_info: Final = msgspec.json.Decoder(SymbolInfo).decode
decode_symbol_name: Final = msgspec.json.Decoder(SymbolName).decode


def instrument_name(symbol: str, info: SymbolInfo | None = None) -> str:
    """The canonical name, e.g. "binance.BTC-USDT"; without info the quote asset is recognised."""
    if info is not None:
        return f"{VENUE}.{info.base_asset}-{info.quote_asset}"
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return f"{VENUE}.{symbol.removesuffix(quote)}-{quote}"
    return f"{VENUE}.{symbol}"


def definition(info: SymbolInfo) -> Instrument:
    """The instrument's event without receive_time.

    Raises:
        DecimalError: A filter's number is not a plain decimal.
    """
    price, lot = info.filter("PRICE_FILTER"), info.filter("LOT_SIZE")
    notional = info.filter("NOTIONAL") or info.filter("MIN_NOTIONAL")
    message = Instrument(
        source=VENUE,
        type=EventType.EVENT_TYPE_INSTRUMENT,
        instrument=instrument_name(info.symbol, info),
        symbol=info.symbol,
        base_asset=info.base_asset,
        quote_asset=info.quote_asset,
        price_exponent=EXPONENT,
        size_exponent=EXPONENT,
        tick_size=parse(price.tick_size) if price and price.tick_size else 0,
        lot_size=parse(lot.step_size) if lot and lot.step_size else 0,
        min_notional=(notional.min_notional or "") if notional else "",
        status=info.status,
    )
    digest = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
    message.event_id = f"instrument:{digest[:32]}"
    return message
