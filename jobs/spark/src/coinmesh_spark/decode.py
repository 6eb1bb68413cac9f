"""From Kafka records to columns of trades: framing, schema, Protobuf and contents checked.

Nothing is dropped silently: a record is either a trade or a bad one with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError

from coinmesh_contracts import framing
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, Trade
from coinmesh_spark.trades import MICROS, Flags, Ints, Trades

INSTRUMENT: Final = re.compile(r"[a-z0-9-]+\.[^/:?#%\s]+")
MAX_EXPONENT: Final = 18
AHEAD: Final = 300 * MICROS
"""How far an event may lie ahead of its append to the log; beyond it the clock is wrong, and one
such trade would close the windows of its whole partition."""


class Bad(NamedTuple):
    """A record that is no trade: its row in the batch and why."""

    row: int
    reason: str
    detail: str


@dataclass
class Decoded:
    """What one record batch holds.

    Attributes:
        trades: The trades.
        rows: Each trade's row in the record batch.
        bad: The records that are none.
    """

    trades: Trades
    rows: Ints
    bad: list[Bad] = field(default_factory=list)


class Decoder:
    """Decodes record batches with columns `key`, `value` and `timestamp` (Kafka's append time)."""

    def __init__(self, schema_ids: set[int], accepts: Callable[[int], bool]) -> None:
        """`accepts` is asked once about each id that isn't among `schema_ids`."""
        self._headers = {framing.header(schema_id) for schema_id in schema_ids}
        self._accepts = accepts

    def decode(self, batch: pa.RecordBatch) -> Decoded:
        """The batch's trades and bad records."""
        bad: list[Bad] = []
        values: list[bytes | None] = batch.column("value").to_pylist()
        rows, events = self._events(values, bad)
        keys = batch.column("key")
        if len(rows) != len(values):
            keys = keys.take(pa.array(rows))
        encoded = pc.dictionary_encode(keys, null_encoding="encode")
        names: list[bytes | None] = encoded.dictionary.to_pylist()
        instruments = [(name or b"").decode("utf-8", "replace") for name in names]
        codes: Ints = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        appended = batch.column("timestamp").cast(pa.int64()).to_numpy(zero_copy_only=False)[rows]

        trade_id = _column(np.uint64, [event.trade_id for event in events])
        trades = Trades(
            instruments=instruments,
            instrument=codes,
            trade_id=trade_id.astype(np.int64),
            event_time=_column(np.int64, [event.event_time for event in events]),
            price=_column(np.int64, [event.price_units for event in events]),
            price_exponent=_column(np.int64, [event.price_exponent for event in events]),
            size=_column(np.int64, [event.size_units for event in events]),
            size_exponent=_column(np.int64, [event.size_exponent for event in events]),
            taker_buy=_column(np.int64, [event.taker_side for event in events]) == TAKER_SIDE_BUY,
        )
        named = [instruments[code] for code in codes.tolist()]
        matches = np.fromiter(
            (event.instrument == name for event, name in zip(events, named, strict=True)),
            np.bool_,
            len(events),
        )
        return _checked(trades, rows, matches, appended, bad)

    def _events(self, values: list[bytes | None], bad: list[Bad]) -> tuple[Ints, list[Trade]]:
        parse = Trade.FromString
        try:
            if {value[:6] for value in values} <= self._headers:  # type: ignore[index]
                return np.arange(len(values)), [parse(value[6:]) for value in values]  # type: ignore[index]
        except (TypeError, DecodeError):
            pass
        rows: list[int] = []
        events: list[Trade] = []
        for row, value in enumerate(values):
            try:
                schema_id, payload = framing.split(value)
                if value is None or not self._knows(schema_id):
                    detail = f"schema id {schema_id} isn't one of this topic's"
                    bad.append(Bad(row, "UNKNOWN_SCHEMA_ID", detail))
                    continue
                events.append(parse(payload))
                rows.append(row)
            except framing.FramingError as error:
                bad.append(Bad(row, error.reason, str(error)))
            except DecodeError as error:
                bad.append(Bad(row, "BAD_PROTOBUF", str(error)))
        return np.array(rows, dtype=np.int64), events

    def _knows(self, schema_id: int) -> bool:
        if not 0 < schema_id < 1 << 31:
            return False
        header = framing.header(schema_id)
        if header not in self._headers and self._accepts(schema_id):
            self._headers.add(header)
        return header in self._headers


def _column(kind: type[np.generic], values: list[int]) -> Ints:
    return np.array(values, dtype=kind)


def _checked(
    trades: Trades, rows: Ints, key_matches: Flags, appended: Ints, bad: list[Bad]
) -> Decoded:
    """The trades whose contents hold; the others join the bad ones with the first reason."""
    named = np.array(
        [INSTRUMENT.fullmatch(name) is not None for name in trades.instruments], dtype=np.bool_
    )
    checks: tuple[tuple[Flags, str, str], ...] = (
        (key_matches, "KEY_MISMATCH", "the record's key isn't its event's instrument"),
        (
            named[trades.instrument] if len(named) else key_matches,
            "INVALID_INSTRUMENT",
            "the instrument isn't of the form venue.SYMBOL",
        ),
        (trades.event_time > 0, "NO_EVENT_TIME", "the event time is absent or not positive"),
        (
            trades.event_time <= appended + AHEAD,
            "FUTURE_EVENT_TIME",
            "the event time lies more than 5 minutes after the record's append",
        ),
        (trades.trade_id >= 0, "INVALID_TRADE_ID", "the trade id exceeds 63 bits"),
        (trades.price > 0, "INVALID_PRICE", "the price isn't positive"),
        (trades.size > 0, "INVALID_SIZE", "the size isn't positive"),
        (
            (np.abs(trades.price_exponent) <= MAX_EXPONENT)
            & (np.abs(trades.size_exponent) <= MAX_EXPONENT),
            "INVALID_EXPONENT",
            f"an exponent is beyond ±{MAX_EXPONENT}",
        ),
    )
    good = np.ones(len(trades), dtype=np.bool_)
    for holds, reason, detail in checks:
        failed = good & ~holds
        if failed.any():
            bad.extend(Bad(int(row), reason, detail) for row in rows[failed])
            good &= holds
    bad.sort()
    return Decoded(trades if good.all() else trades.take(good), rows[good], bad)
