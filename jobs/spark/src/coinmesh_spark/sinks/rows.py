"""Bars and indicators as Cassandra rows and as events; pure.

Partitions and write timestamps are those of the serving schema.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from coinmesh_contracts import cql
from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.bar_pb2 import Bar as BarEvent
from coinmesh_contracts.events.v1.event_type_pb2 import EVENT_TYPE_BAR, EVENT_TYPE_INDICATOR
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_contracts.serving import (
    INTERVALS,
    STREAM_LAYER,
    VWAP_EXTRA_DIGITS,
    bucket,
    write_time,
)
from coinmesh_spark.fold import ChangedBar, ChangedIndicators
from coinmesh_spark.indicators import SCALE, Output
from coinmesh_spark.trades import MICROS

_SOURCE: Final = "spark-stream"


class Row(NamedTuple):
    """One row: its table, the values of its partition key, of its other columns, and timestamp."""

    table: str
    partition: tuple[bytes, ...]
    values: tuple[bytes, ...]
    timestamp: int


def _key(instrument: str, interval: str, start: int) -> tuple[bytes, bytes]:
    return instrument.encode(), cql.bigint(bucket(interval, start) * 1000)


def bar_row(changed: ChangedBar, run: bytes) -> Row:
    """Return a bar's row in the table of its interval."""
    bar, final = changed.bar, changed.final
    price, size = changed.price_exponent, changed.size_exponent
    revision = bar.revision(final)
    decimal, bigint = cql.decimal, cql.bigint
    value = cql.udt(
        (
            decimal(bar.open, price),
            decimal(bar.high, price),
            decimal(bar.low, price),
            decimal(bar.close, price),
            decimal(bar.volume, size),
            decimal(bar.quote_volume, price + size),
            decimal(bar.vwap(), price - VWAP_EXTRA_DIGITS),
            decimal(bar.taker_buy_volume, size),
            decimal(bar.taker_buy_quote_volume, price + size),
            bigint(bar.trades),
            bigint(bar.first_id),
            bigint(bar.last_id),
            cql.boolean(final),
            bigint(revision),
            cql.integer(STREAM_LAYER),
            run,
        )
    )
    return Row(
        f"bars_{changed.interval}",
        _key(changed.instrument, changed.interval, bar.start),
        (bigint(bar.start * 1000), value),
        write_time(bar.start, STREAM_LAYER, revision),
    )


def indicators_row(changed: ChangedIndicators, run: bytes) -> Row:
    """Return the row of all indicators of a bar in the table of its interval."""
    outputs = {_name(key): cql.decimal(units, -SCALE) for key, units in changed.values.items()}
    value = cql.udt(
        (
            cql.text_map(outputs),
            cql.bigint(changed.revision),
            cql.integer(STREAM_LAYER),
            run,
        )
    )
    return Row(
        f"indicators_{changed.interval}",
        _key(changed.instrument, changed.interval, changed.start),
        (cql.bigint(changed.start * 1000), value),
        write_time(changed.start, STREAM_LAYER, changed.revision),
    )


@lru_cache
def _name(output: Output) -> str:
    return output.key


def bar_id(changed: ChangedBar) -> str:
    """Return the bar's event id."""
    seconds = INTERVALS[changed.interval]
    revision = changed.bar.revision(changed.final)
    return f"{changed.instrument}:bar:{seconds}:{changed.bar.start}:{STREAM_LAYER}:{revision}"


def bar_event(changed: ChangedBar, run: str, receive_time: int) -> bytes:
    """Return a bar as a serialized event; `receive_time` in nanoseconds."""
    bar, instrument = changed.bar, changed.instrument
    price, size = changed.price_exponent, changed.size_exponent
    seconds = INTERVALS[changed.interval]
    revision = bar.revision(changed.final)
    return BarEvent(
        event_id=bar_id(changed),
        event_time=bar.start * MICROS,
        receive_time=receive_time,
        source=_SOURCE,
        type=EVENT_TYPE_BAR,
        instrument=instrument,
        interval_seconds=seconds,
        open_units=bar.open,
        high_units=bar.high,
        low_units=bar.low,
        close_units=bar.close,
        price_exponent=price,
        size_exponent=size,
        volume=to_string(bar.volume, size),
        quote_volume=to_string(bar.quote_volume, price + size),
        vwap=to_string(bar.vwap(), price - VWAP_EXTRA_DIGITS),
        trade_count=bar.trades,
        taker_buy_volume=to_string(bar.taker_buy_volume, size),
        taker_buy_quote_volume=to_string(bar.taker_buy_quote_volume, price + size),
        final=changed.final,
        revision=revision,
        layer=STREAM_LAYER,
        run=run,
        first_trade_id=bar.first_id,
        last_trade_id=bar.last_id,
    ).SerializeToString()


def indicator_events(changed: ChangedIndicators, run: str, receive_time: int) -> list[bytes]:
    """Return each output of a bar's indicators as a serialized event."""
    instrument, start, revision = changed.instrument, changed.start, changed.revision
    seconds = INTERVALS[changed.interval]
    common = IndicatorValue(
        event_time=start * MICROS,
        receive_time=receive_time,
        source=_SOURCE,
        type=EVENT_TYPE_INDICATOR,
        instrument=instrument,
        interval_seconds=seconds,
        revision=revision,
        layer=STREAM_LAYER,
        run=run,
    ).SerializeToString()
    tail = f"{STREAM_LAYER}:{revision}"
    return [
        # Concatenated messages are one message: the outputs' common fields are serialized once.
        common
        + IndicatorValue(
            event_id=(
                f"{instrument}:indicator:{seconds}:{start}:{indicator}:{period}:{output}:{tail}"
            ),
            indicator=indicator,
            period=period,
            output=output,
            value=to_string(units, -SCALE),
        ).SerializeToString()
        for (indicator, period, output), units in changed.values.items()
    ]
