"""Decoding: every record becomes a trade or a bad one with its reason."""

from datetime import UTC, datetime

import harness as h
import pyarrow as pa
import pytest

from coinmesh_contracts import framing, stored_trades
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_spark.decode import Decoder
from coinmesh_spark.trades import Trades

HEADER = framing.header(7)
TIME = 1_723_075_200_000_000
APPENDED = datetime(2026, 1, 1, tzinfo=UTC)


def batch(records):
    return pa.RecordBatch.from_pydict(
        {
            "key": pa.array([key for key, _ in records], pa.binary()),
            "value": pa.array([value for _, value in records], pa.binary()),
            "timestamp": pa.array([APPENDED] * len(records), pa.timestamp("us", "UTC")),
        }
    )


def good(number, **fields):
    instrument = fields.pop("instrument", f"sim.I{number % 3}-USDT")
    values = {"price": 100 + number, "size": 5, "buy": number % 2 == 0, **fields}
    time = values.pop("time", TIME + number)
    args = values.pop("price"), values.pop("size"), values.pop("buy")
    return h.trade(HEADER, instrument, number, time, *args, **values)


def decode(records, accepts=lambda _: False):
    return Decoder({7}, accepts).decode(batch(records))


def test_trades_keep_their_order_and_values():
    decoded = decode([good(number) for number in range(1, 8)])
    trades = decoded.trades
    assert decoded.bad == []
    assert decoded.rows.tolist() == list(range(7))
    assert trades.trade_id.tolist() == list(range(1, 8))
    assert [trades.instruments[code] for code in trades.instrument] == [
        f"sim.I{number % 3}-USDT" for number in range(1, 8)
    ]
    assert trades.price.tolist() == [100 + number for number in range(1, 8)]
    assert trades.taker_buy.tolist() == [number % 2 == 0 for number in range(1, 8)]
    assert trades.event_time.tolist() == [TIME + number for number in range(1, 8)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ((b"sim.I1-USDT", None), "NOT_FRAMED"),
        ((b"sim.I1-USDT", b"\x00\x00"), "NOT_FRAMED"),
        ((b"sim.I1-USDT", b"\x01" + good(1)[1][1:]), "BAD_MAGIC"),
        ((b"sim.I1-USDT", good(1)[1][:5] + b"\x02" + good(1)[1][6:]), "BAD_MESSAGE_INDEX"),
        ((b"sim.I1-USDT", framing.header(8) + good(1)[1][6:]), "UNKNOWN_SCHEMA_ID"),
        ((b"sim.I1-USDT", b"\x00\x00\x00\x00\x00\x00" + good(1)[1][6:]), "UNKNOWN_SCHEMA_ID"),
        ((b"sim.I1-USDT", good(1)[1][:-1]), "BAD_PROTOBUF"),
        ((b"sim.I2-USDT", good(1)[1]), "KEY_MISMATCH"),
        ((None, good(1)[1]), "KEY_MISMATCH"),
        (good(1, instrument="Sim.X"), "INVALID_INSTRUMENT"),
        (good(1, time=0), "NO_EVENT_TIME"),
        (good(1, time=int(APPENDED.timestamp() * 1e6) + 301_000_000), "FUTURE_EVENT_TIME"),
        (good(0), "INVALID_TRADE_ID"),
        (good(2**63, time=TIME, price=1), "INVALID_TRADE_ID"),
        (good(1, price=0), "INVALID_PRICE"),
        (good(1, price=-5), "INVALID_PRICE"),
        (good(1, size=0), "INVALID_SIZE"),
        (good(1, size_exponent=19), "INVALID_EXPONENT"),
        (good(1, price_exponent=-(2**31)), "INVALID_EXPONENT"),
        (good(1, taker_side=128), "INVALID_TAKER_SIDE"),
        (good(1, taker_side=-1), "INVALID_TAKER_SIDE"),
    ],
)
def test_a_bad_record_is_told_apart_and_harms_no_other(record, reason):
    decoded = decode([good(1), record, good(3)])
    assert [(bad.row, bad.reason) for bad in decoded.bad] == [(1, reason)]
    assert decoded.rows.tolist() == [0, 2]
    assert decoded.trades.trade_id.tolist() == [1, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instrument": "Sim.X"},
        {"time": 0},
        {"time": int(APPENDED.timestamp() * 1e6) + 301_000_000},
        {"number": 0},
        {"number": 2**63, "time": TIME, "price": 1},
        {"price": 0},
        {"size": -1},
        {"size_exponent": 19},
        {"price_exponent": -(2**31)},
        {"taker_side": 128},
    ],
)
@pytest.mark.parametrize("keyed", [True, False])
def test_rules_for_stored_trades_give_same_reason(fields, keyed):
    key, value = good(**{"number": 1, **fields})
    key = key if keyed else b"sim.OTHER"
    bad = decode([(key, value)]).bad
    appended_us = int(APPENDED.timestamp() * 1e6)
    reason = stored_trades.rejected(Trade.FromString(value[6:]), key, appended_us)
    assert reason == (bad[0].reason if bad else None)


def test_a_schema_that_comes_later_is_taken_if_it_is_the_topics():
    asked = []

    def accepts(schema_id):
        asked.append(schema_id)
        return schema_id == 8

    decoder = Decoder({7}, accepts)
    newer = framing.header(8) + good(2)[1][6:]
    for _ in range(2):
        decoded = decoder.decode(batch([good(1), (b"sim.I2-USDT", newer)]))
        assert decoded.trades.trade_id.tolist() == [1, 2]
    assert asked == [8]


def test_parts_are_joined_under_one_numbering_of_instruments():
    first = decode([good(1), good(2)]).trades
    second = decode([good(3), good(4)]).trades
    joined = Trades.concatenated([first, second])
    assert [joined.instruments[code] for code in joined.instrument] == [
        f"sim.I{number % 3}-USDT" for number in range(1, 5)
    ]
    assert joined.trade_id.tolist() == [1, 2, 3, 4]
