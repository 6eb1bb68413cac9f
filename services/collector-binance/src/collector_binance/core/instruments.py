"""Instruments from exchangeInfo, and names for symbols without exchangeInfo."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import Struct, field

from coinmesh_contracts.events.v1.event_type_pb2 import EventType
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from collector_binance.core.units import EXPONENT, parse

VENUE: Final = "binance"

# Without exchangeInfo, the longest of these suffixes is a symbol's quote asset.
_QUOTES: Final = sorted(
    "USDT FDUSD USDC TUSD BUSD USDP USD1 USDE USDS PAX DAI UST IDRT BIDR BVND BKRW BTC ETH BNB TRX"
    " XRP DOGE SOL DOT VAI EUR EURI AEUR GBP AUD TRY BRL RUB UAH NGN ZAR PLN RON ARS JPY MXN CZK"
    " COP USD".split(),
    key=len,
    reverse=True,
)


class Filter(Struct):
    """One filter of a symbol; found by type because the venue does not guarantee an order."""

    filter_type: str = field(name="filterType")
    tick_size: str | None = field(name="tickSize", default=None)
    step_size: str | None = field(name="stepSize", default=None)
    min_notional: str | None = field(name="minNotional", default=None)


class SymbolInfo(Struct):
    """The exchangeInfo entry of a symbol."""

    symbol: str
    status: str
    base_asset: str = field(name="baseAsset")
    quote_asset: str = field(name="quoteAsset")
    filters: list[Filter] = field(default_factory=list)

    def filter(self, filter_type: str) -> Filter | None:
        """Return the filter of a type; None if the venue provides none."""
        return next((each for each in self.filters if each.filter_type == filter_type), None)


class SymbolName(Struct):
    """The name in an entry whose other fields can't be read."""

    symbol: str


class RateLimit(Struct):
    """One of the venue's rate limits."""

    kind: str = field(name="rateLimitType")
    interval: str
    count: int = field(name="intervalNum")
    limit: int


class ExchangeInfo(Struct):
    """REST exchangeInfo; symbols stay raw so that collected ones can be recorded as received."""

    symbols: list[msgspec.Raw]
    rate_limits: list[RateLimit] = field(name="rateLimits", default_factory=list)

    def weight_per_minute(self) -> int | None:
        """Return the request weight allowed per minute; None if the venue does not report it."""
        for each in self.rate_limits:
            if (each.kind, each.interval, each.count) == ("REQUEST_WEIGHT", "MINUTE", 1):
                return each.limit
        return None


decode_exchange_info: Final = msgspec.json.Decoder(ExchangeInfo).decode
decode_symbol_info: Final = msgspec.json.Decoder(SymbolInfo).decode
decode_symbol_name: Final = msgspec.json.Decoder(SymbolName).decode


def instrument_name(symbol: str, info: SymbolInfo | None = None) -> str:
    """Return the canonical name, e.g. "binance.BTC-USDT"; infer the quote asset without info."""
    if info is not None:
        return f"{VENUE}.{info.base_asset}-{info.quote_asset}"
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return f"{VENUE}.{symbol.removesuffix(quote)}-{quote}"
    return f"{VENUE}.{symbol}"


def definition(info: SymbolInfo) -> Instrument:
    """Return the instrument's event without receive_time.

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
