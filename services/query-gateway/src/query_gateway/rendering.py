"""Convert rows to API messages, and charts to columns of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument as InstrumentEvent
from coinmesh_contracts.market.v1.bar_pb2 import Bar, Layer, Provenance
from coinmesh_contracts.market.v1.book_pb2 import Book, Level
from coinmesh_contracts.market.v1.indicator_pb2 import IndicatorValue
from coinmesh_contracts.market.v1.instrument_pb2 import Instrument
from coinmesh_contracts.market.v1.stream_pb2 import IntervalBar, MarketEvent, Quote
from coinmesh_contracts.market.v1.ticker_pb2 import Ticker
from coinmesh_contracts.market.v1.trade_pb2 import Trade
from query_gateway.bars import BarRow, plain
from query_gateway.book import BookView
from query_gateway.day_figures import Figures
from query_gateway.live_view import IndicatorRow, News, QuoteRow
from query_gateway.trades import TradeRow

_LAYERS: Final = (Layer.LAYER_STREAM, Layer.LAYER_BATCH)


def time_of_ms(value: int) -> Timestamp:
    """Return a Timestamp from milliseconds since the epoch."""
    return Timestamp(seconds=value // 1000, nanos=value % 1000 * 1_000_000)


def time_of_us(value: int) -> Timestamp:
    """Return a Timestamp from microseconds since the epoch."""
    return Timestamp(seconds=value // 1_000_000, nanos=value % 1_000_000 * 1000)


def time_of_ns(value: int) -> Timestamp:
    """Return a Timestamp from nanoseconds since the epoch."""
    return Timestamp(seconds=value // 1_000_000_000, nanos=value % 1_000_000_000)


def instrument(event: InstrumentEvent) -> Instrument:
    """Convert an instrument's definition."""
    tick, lot = event.tick_size, event.lot_size
    return Instrument(
        name=event.instrument,
        venue=event.source,
        symbol=event.symbol,
        base_asset=event.base_asset,
        quote_asset=event.quote_asset,
        tick_size=to_string(tick, event.price_exponent) if tick else "",
        lot_size=to_string(lot, event.size_exponent) if lot else "",
        min_notional=event.min_notional,
        status=event.status,
    )


def bar(row: BarRow) -> Bar:
    """Convert a bar."""
    return Bar(
        start_time=time_of_ms(row.start_ms),
        open=row.open,
        high=row.high,
        low=row.low,
        close=row.close,
        volume=row.volume,
        quote_volume=row.quote_volume,
        vwap=row.vwap,
        trade_count=row.trade_count,
        taker_buy_volume=row.taker_buy_volume,
        taker_buy_quote_volume=row.taker_buy_quote_volume,
        final=row.final,
        revision=row.revision,
        provenance=Provenance(
            layer=_LAYERS[row.layer > 0],
            publication=row.layer,
            run=row.run,
            first_trade_id=row.first_trade_id,
            last_trade_id=row.last_trade_id,
        ),
    )


def trade(row: TradeRow) -> Trade:
    """Convert a trade."""
    return Trade(
        trade_id=row.trade_id,
        event_time=time_of_us(row.time_us),
        price=row.price,
        size=row.size,
        taker_side=row.taker_side,
        receive_time=time_of_ns(row.receive_time_ns),
    )


def quote(row: QuoteRow) -> Quote:
    """Convert a quote."""
    return Quote(
        update_id=row.update_id,
        bid_price=row.bid_price,
        bid_size=row.bid_size,
        ask_price=row.ask_price,
        ask_size=row.ask_size,
        receive_time=time_of_ns(row.receive_time_ns),
    )


def indicator(row: IndicatorRow) -> IndicatorValue:
    """Convert a value of an indicator."""
    name, period, output = row.name.split("/", 2)
    return IndicatorValue(
        start_time=time_of_ms(row.start_ms),
        indicator=name,
        period=int(period),
        output=output,
        value=row.value,
        provenance=Provenance(layer=_LAYERS[row.layer > 0], publication=row.layer, run=row.run),
    )


def ticker(
    name: str,
    last: TradeRow | None,
    best: QuoteRow | None,
    figures: Figures | None,
    *,
    stale: bool,
) -> Ticker:
    """Return a ticker; unknown values stay empty."""
    found = Ticker(instrument=name, stale=stale)
    if last is not None:
        found.last_price, found.last_size = last.price, last.size
        found.event_time.CopyFrom(time_of_us(last.time_us))
    if best is not None:
        found.bid_price, found.bid_size = best.bid_price, best.bid_size
        found.ask_price, found.ask_size = best.ask_price, best.ask_size
        found.quote_receive_time.CopyFrom(time_of_ns(best.receive_time_ns))
    if figures is not None:
        if figures.change_percent is not None:
            found.change_percent_24h = plain(figures.change_percent)
        found.volume_24h = plain(figures.volume)
        found.quote_volume_24h = plain(figures.quote_volume)
        found.trade_count_24h = figures.trade_count
    return found


def book(name: str, view: BookView, stale: bool) -> Book:
    """Return a book; `stale` if it is known to be outdated for a reason outside the book itself."""
    found = Book(
        instrument=name,
        last_update_id=view.last_update_id,
        bids=[Level(price=price, size=size) for price, size in view.bids],
        asks=[Level(price=price, size=size) for price, size in view.asks],
        stale=view.stale or stale,
        receive_time=time_of_ns(view.receive_time_ns),
    )
    if view.event_time_us is not None:
        found.event_time.CopyFrom(time_of_us(view.event_time_us))
    return found


def event(news: News) -> MarketEvent:
    """Convert an update to an event of the live stream."""
    row = news.row
    if isinstance(row, TradeRow):
        return MarketEvent(instrument=news.instrument, trade=trade(row))
    if isinstance(row, QuoteRow):
        return MarketEvent(instrument=news.instrument, quote=quote(row))
    return MarketEvent(
        instrument=news.instrument, bar=IntervalBar(interval=news.interval, bar=bar(row))
    )


def chart(name: str, interval: str, rows: Sequence[BarRow]) -> bytes:
    """Return bars as columns of JSON, oldest first."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(BarRow._fields)
    starts, opens, highs, lows, closes, volumes = columns[:6]
    return orjson.dumps(
        {
            "instrument": name,
            "interval": interval,
            "startTime": starts,
            "open": opens,
            "high": highs,
            "low": lows,
            "close": closes,
            "volume": volumes,
            "final": columns[BarRow._fields.index("final")],
        }
    )
