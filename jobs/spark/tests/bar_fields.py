"""Bars as dictionaries of their fields, from events and from Cassandra's rows."""

from decimal import Decimal


def bar_of_event(event):
    def price(units):
        return f"{Decimal(units).scaleb(event.price_exponent):f}"

    return {
        "open": price(event.open_units),
        "high": price(event.high_units),
        "low": price(event.low_units),
        "close": price(event.close_units),
        "volume": event.volume,
        "quote_volume": event.quote_volume,
        "vwap": event.vwap,
        "taker_buy_volume": event.taker_buy_volume,
        "taker_buy_quote_volume": event.taker_buy_quote_volume,
        "trade_count": event.trade_count,
        "first_trade_id": event.first_trade_id,
        "last_trade_id": event.last_trade_id,
        "final": event.final,
        "revision": event.revision,
    }


def bar_of_row(bar):
    decimals = ("open", "high", "low", "close", "volume", "quote_volume", "vwap")
    decimals += ("taker_buy_volume", "taker_buy_quote_volume")
    others = ("trade_count", "first_trade_id", "last_trade_id", "final", "revision")
    return {name: f"{getattr(bar, name):f}" for name in decimals} | {
        name: getattr(bar, name) for name in others
    }
