"""Decodes Kafka records to columns of trades: checks framing, schema, Protobuf and contents.

Nothing is dropped silently: a record is either a trade or a bad record with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from google.protobuf.message import DecodeError

from coinmesh_archive import arrow_types as arrow
from coinmesh_contracts import framing
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, TakerSide, Trade
from coinmesh_contracts.stored_trades import AHEAD_SECONDS, INSTRUMENT, MAX_EXPONENT
from coinmesh_spark import wire
from coinmesh_spark.trades import MICROS, Flags, Ints, Trades

AHEAD: Final = round(AHEAD_SECONDS * MICROS)
# Functions of this module are created at import, where a type checker doesn't see them.
pc: Any = pyarrow.compute
_NUMBERS: Final = frozenset(
    {
        Trade.TRADE_ID_FIELD_NUMBER,
        Trade.EVENT_TIME_FIELD_NUMBER,
        Trade.PRICE_UNITS_FIELD_NUMBER,
        Trade.PRICE_EXPONENT_FIELD_NUMBER,
        Trade.SIZE_UNITS_FIELD_NUMBER,
        Trade.SIZE_EXPONENT_FIELD_NUMBER,
        Trade.TAKER_SIDE_FIELD_NUMBER,
    }
)
_INSTRUMENT: Final = Trade.INSTRUMENT_FIELD_NUMBER
_STRINGS: Final = frozenset(
    {
        Trade.EVENT_ID_FIELD_NUMBER,
        Trade.SOURCE_FIELD_NUMBER,
        _INSTRUMENT,
        Trade.SYMBOL_FIELD_NUMBER,
    }
)
_TAKER_SIDES: Final = np.array(TakerSide.values(), np.uint64)
_LOW_32: Final = np.uint64(0xFFFF_FFFF)
_PADDING: Final = 16


class Bad(NamedTuple):
    """A record that is no trade: its row in the batch and the reason."""

    row: int
    reason: str
    detail: str


@dataclass
class Decoded:
    """The content of one record batch.

    Attributes:
        trades: The trades.
        rows: Each trade's row in the record batch.
        bad: The records that are no trades.
    """

    trades: Trades
    rows: Ints
    bad: list[Bad] = field(default_factory=list)


class Decoder:
    """Decodes record batches with columns `key`, `value` and `timestamp` (Kafka's append time)."""

    def __init__(
        self, schema_ids: set[int], accepts: Callable[[int], bool], ahead: int = AHEAD
    ) -> None:
        """Create a decoder; `accepts` checks ids that aren't in `schema_ids`; `ahead` is in µs."""
        self._ahead = ahead
        self._headers = {framing.header(schema_id) for schema_id in schema_ids}
        self._accepts = accepts

    def decode(self, batch: arrow.RecordBatch) -> Decoded:
        """Return the batch's trades and bad records."""
        data, begin, end = _layout(batch.column("value"))
        framed = self._framed(data, begin, end)
        fields = wire.read(
            data,
            np.where(framed, begin + framing.HEADER_SIZE, 0),
            np.where(framed, end, 0),
            _NUMBERS,
            _STRINGS,
        )
        encoded = pc.dictionary_encode(batch.column("key"), null_encoding="encode")
        keys: list[bytes | None] = encoded.dictionary.to_pylist()
        names = [(key or b"").decode("utf-8", "replace") for key in keys]
        codes: Ints = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        matches = _equal(data, fields.begins[_INSTRUMENT], fields.lengths[_INSTRUMENT], keys, codes)
        varints = fields.varints
        side = varints[Trade.TAKER_SIDE_FIELD_NUMBER] & _LOW_32
        sided = np.isin(side, _TAKER_SIDES)
        trades = Trades(
            instruments=names,
            instrument=codes,
            trade_id=varints[Trade.TRADE_ID_FIELD_NUMBER].astype(np.int64),
            event_time=varints[Trade.EVENT_TIME_FIELD_NUMBER].astype(np.int64),
            price=wire.zigzag(varints[Trade.PRICE_UNITS_FIELD_NUMBER]),
            price_exponent=wire.zigzag(varints[Trade.PRICE_EXPONENT_FIELD_NUMBER] & _LOW_32),
            size=wire.zigzag(varints[Trade.SIZE_UNITS_FIELD_NUMBER]),
            size_exponent=wire.zigzag(varints[Trade.SIZE_EXPONENT_FIELD_NUMBER] & _LOW_32),
            taker_buy=side == TAKER_SIDE_BUY,
        )
        bad: list[Bad] = []
        good = framed & fields.regular
        for row in np.flatnonzero(~good).tolist():
            event = self._event(row, batch.column("value")[row].as_py(), bad)
            if event is not None:
                _fill(trades, row, event)
                matches[row] = event.instrument == names[codes[row]]
                sided[row] = event.taker_side in TakerSide.values()
                good[row] = True
        appended = batch.column("timestamp").cast(pa.int64()).to_numpy(zero_copy_only=False)
        return _checked(trades, good, _Facts(matches, sided, appended + self._ahead), bad)

    def _framed(self, data: wire.Bytes, begin: Ints, end: Ints) -> Flags:
        """Return which values have one of the known headers."""
        framed = np.zeros(len(begin), dtype=np.bool_)
        long_enough = end - begin >= framing.HEADER_SIZE
        for header in self._headers:
            same = long_enough.copy()
            for at, byte in enumerate(header):
                same &= data[begin + at] == byte
            framed |= same
        return framed

    def _event(self, row: int, value: bytes | None, bad: list[Bad]) -> Trade | None:
        """Decode one record with the Protobuf library; add a reason and return None if invalid."""
        try:
            schema_id, payload = framing.split(value)
            if not self._knows(schema_id):
                detail = f"schema id {schema_id} isn't one of this topic's"
                bad.append(Bad(row, "UNKNOWN_SCHEMA_ID", detail))
                return None
            return Trade.FromString(payload)
        except framing.FramingError as error:
            bad.append(Bad(row, error.reason, str(error)))
        except DecodeError as error:
            bad.append(Bad(row, "BAD_PROTOBUF", str(error)))
        return None

    def _knows(self, schema_id: int) -> bool:
        if not 0 < schema_id < 1 << 31:
            return False
        header = framing.header(schema_id)
        if header not in self._headers and self._accepts(schema_id):
            self._headers.add(header)
        return header in self._headers


def _layout(values: arrow.Array) -> tuple[wire.Bytes, Ints, Ints]:
    """Return a binary column's bytes, and the start and end of each value; nulls are empty."""
    values = pc.fill_null(values.cast(pa.binary()), b"")
    _, offsets, content = values.buffers()
    edges = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    edges = edges.astype(np.int64)
    bytes_ = np.frombuffer(content or b"", np.uint8)[edges[0] : edges[-1]]
    padded = np.concatenate([bytes_, np.zeros(_PADDING, np.uint8)])
    edges -= edges[0]
    return padded, edges[:-1], edges[1:]


def _equal(
    data: wire.Bytes, begin: Ints, length: Ints, keys: list[bytes | None], codes: Ints
) -> Flags:
    """Return whether the string at each row equals the row's key."""
    longest = max((len(key or b"") for key in keys), default=0)
    table = np.zeros((len(keys), longest), np.uint8)
    sizes = np.full(len(keys), -1, np.int64)
    for number, key in enumerate(keys):
        if key is not None:
            sizes[number] = len(key)
            table[number, : len(key)] = np.frombuffer(key, np.uint8)
    size = sizes[codes]
    equal: Flags = length == size
    for at in range(longest):
        # Bytes beyond the string are ignored.
        byte = data[np.minimum(begin + at, len(data) - 1)]
        equal &= (byte == table[codes, at]) | (at >= size)
    return equal


def _fill(trades: Trades, row: int, event: Trade) -> None:
    """Write an event into its row."""
    # Values above 63 bits become negative, which is never a valid id.
    trades.trade_id[row] = np.array(event.trade_id, np.uint64).astype(np.int64)
    trades.event_time[row] = event.event_time
    trades.price[row], trades.size[row] = event.price_units, event.size_units
    trades.price_exponent[row] = event.price_exponent
    trades.size_exponent[row] = event.size_exponent
    trades.taker_buy[row] = event.taker_side == TAKER_SIDE_BUY


@dataclass(frozen=True)
class _Facts:
    """Further facts about each record.

    Attributes:
        key_matches: Whether the key is the event's instrument.
        sided: Whether the taker side is one of the contract's.
        latest: The latest event time that its append allows, microseconds.
    """

    key_matches: Flags
    sided: Flags
    latest: Ints


def _checked(trades: Trades, good: Flags, facts: _Facts, bad: list[Bad]) -> Decoded:
    """Return the `good` trades with valid contents; add the others to `bad` with a reason."""
    named = np.array(
        [INSTRUMENT.fullmatch(name) is not None for name in trades.instruments], dtype=np.bool_
    )
    checks: tuple[tuple[Flags, str, str], ...] = (
        (facts.key_matches, "KEY_MISMATCH", "the record's key isn't its event's instrument"),
        (
            named[trades.instrument] if len(named) else facts.key_matches,
            "INVALID_INSTRUMENT",
            "the instrument isn't of the form venue.SYMBOL",
        ),
        (trades.event_time > 0, "NO_EVENT_TIME", "the event time is absent or not positive"),
        (
            trades.event_time <= facts.latest,
            "FUTURE_EVENT_TIME",
            "the event time lies too far after the record's append (SPARK_AHEAD_SECONDS)",
        ),
        # An absent id reads as 0: all but the first such trade would be duplicates.
        (trades.trade_id > 0, "INVALID_TRADE_ID", "the trade id is absent, 0 or exceeds 63 bits"),
        (trades.price > 0, "INVALID_PRICE", "the price isn't positive"),
        (trades.size > 0, "INVALID_SIZE", "the size isn't positive"),
        (
            (np.abs(trades.price_exponent) <= MAX_EXPONENT)
            & (np.abs(trades.size_exponent) <= MAX_EXPONENT),
            "INVALID_EXPONENT",
            f"an exponent is beyond ±{MAX_EXPONENT}",
        ),
        (facts.sided, "INVALID_TAKER_SIDE", "the taker side isn't one of the contract's"),
    )
    for holds, reason, detail in checks:
        failed = good & ~holds
        if failed.any():
            bad.extend(Bad(row, reason, detail) for row in np.flatnonzero(failed).tolist())
            good &= holds
    bad.sort()
    return Decoded(trades if good.all() else trades.take(good), np.flatnonzero(good), bad)
