"""The table of recent trades: the events that it stores, its statements and its rows.

The tables are in deploy/cassandra/migrations. A row is a function of its event alone, so that
writing it again changes nothing.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from coinmesh_contracts import cql
from coinmesh_contracts.events.v1.trade_pb2 import TakerSide, Trade
from coinmesh_contracts.serving import trade_partition

GROUP: Final = "tick-writer"
"""The consumer group that writes the table; the table is complete below its committed offsets."""
INSTRUMENT: Final = re.compile(r"[a-z0-9-]+\.[^/:?#%\s]+")
MAX_EXPONENT: Final = 18
AHEAD_SECONDS: Final = 300.0
"""Maximum time by which an event may be ahead of its append to the log; beyond it the clock is
wrong, and one such trade would close the windows of its whole partition."""
INSERT: Final = (
    "INSERT INTO trades (instrument, bucket, shard, event_time, trade_id, price, size, taker_side, "
    "event_time_us, receive_time_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
INSERT_HOUR: Final = "INSERT INTO trade_hours (instrument, hour) VALUES (?, ?)"
"""Indexes the hours with trades, before the trades: an hour without a row has no trades."""
HOUR_SECONDS: Final = 3600.0
"""Age after which an hour's row must be written again before more trades of it: its TTL is a day
longer than that of trades."""
_MAX_ID: Final = 2**63 - 1
_TAKER_SIDES: Final = frozenset(TakerSide.values())


class StoredTrade(NamedTuple):
    """The serialized values of one row, in the order of `INSERT`.

    Attributes:
        partition: Instrument, bucket and shard.
        values: The other columns.
        timestamp: The write timestamp: the event time in microseconds.
    """

    partition: tuple[bytes, bytes, bytes]
    values: tuple[bytes, ...]
    timestamp: int

    @property
    def hour(self) -> tuple[bytes, bytes]:
        """Return the values for `INSERT_HOUR`."""
        return self.partition[:2]

    @property
    def arguments(self) -> list[bytes]:
        """Return all values of the statement."""
        return [*self.partition, *self.values, cql.bigint(self.timestamp)]


def row(trade: Trade) -> StoredTrade:
    """Return the row of a trade that is not `rejected`."""
    hour, shard = trade_partition(trade.event_time, trade.trade_id)
    return StoredTrade(
        (trade.instrument.encode(), cql.bigint(hour * 1000), cql.tinyint(shard)),
        (
            cql.bigint(trade.event_time // 1000),
            cql.bigint(trade.trade_id),
            cql.decimal(trade.price_units, trade.price_exponent),
            cql.decimal(trade.size_units, trade.size_exponent),
            cql.tinyint(trade.taker_side),
            cql.bigint(trade.event_time),
            cql.bigint(trade.receive_time),
        ),
        trade.event_time,
    )


def rejected(
    trade: Trade, key: bytes | None, appended_us: int, ahead_seconds: float = AHEAD_SECONDS
) -> str | None:
    """Return why a decoded event is no valid trade, as a reason code; None if it is valid.

    The Spark stream applies the same rules to columns and writes the dead letter; a test compares
    both.

    Args:
        trade: The event.
        key: Its record's key.
        appended_us: When Kafka appended the record, microseconds since the Unix epoch.
        ahead_seconds: How far the event time may be after that.
    """
    reason = None
    if key != trade.instrument.encode():
        reason = "KEY_MISMATCH"
    elif not INSTRUMENT.fullmatch(trade.instrument):
        reason = "INVALID_INSTRUMENT"
    elif trade.event_time <= 0:
        reason = "NO_EVENT_TIME"
    elif trade.event_time > appended_us + round(ahead_seconds * 1_000_000):
        reason = "FUTURE_EVENT_TIME"
    elif not 0 < trade.trade_id <= _MAX_ID:
        reason = "INVALID_TRADE_ID"
    elif trade.price_units <= 0:
        reason = "INVALID_PRICE"
    elif trade.size_units <= 0:
        reason = "INVALID_SIZE"
    elif max(abs(trade.price_exponent), abs(trade.size_exponent)) > MAX_EXPONENT:
        reason = "INVALID_EXPONENT"
    elif trade.taker_side not in _TAKER_SIDES:
        reason = "INVALID_TAKER_SIDE"
    return reason
