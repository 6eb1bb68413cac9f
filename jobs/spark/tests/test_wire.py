"""The fast reader against the Protobuf library: the same values, or it keeps out of it."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_spark import wire

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
TRADES = st.builds(
    Trade,
    event_id=TEXT,
    event_time=st.none() | INT64,
    receive_time=INT64,
    source=TEXT,
    instrument=TEXT,
    symbol=TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=2),
    trade_id=st.integers(0, 2**64 - 1),
    price_units=INT64,
    price_exponent=st.integers(-(2**31), 2**31 - 1),
    size_units=INT64,
    taker_side=st.integers(0, 3),
    publish_time=st.none() | INT64,
)
STRINGS = frozenset({1, 4, 6, 7})


def read(messages):
    ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
    begins = ends - [len(message) for message in messages]
    data = np.frombuffer(b"".join(messages) + bytes(16), np.uint8)
    return data, wire.read(data, begins, ends, frozenset({2, 9, 10, 11}), STRINGS)


def check(data, fields, row, trade):
    """A message that was read has the library's values."""
    assert int(fields.varints[9][row]) == trade.trade_id
    assert int(fields.varints[2][row].astype(np.int64)) == trade.event_time
    assert int(wire.zigzag(fields.varints[10])[row]) == trade.price_units
    # Of a 32-bit field the low 32 bits count, as the decoder takes them.
    low = fields.varints[11] & np.uint64(0xFFFF_FFFF)
    assert int(wire.zigzag(low)[row]) == trade.price_exponent
    begin, length = int(fields.begins[6][row]), int(fields.lengths[6][row])
    assert bytes(data[begin : begin + length]).decode() == trade.instrument


@given(st.lists(TRADES, min_size=1, max_size=12))
def test_valid_messages(trades):
    data, fields = read([trade.SerializeToString() for trade in trades])
    for row, trade in enumerate(trades):
        texts = trade.event_id, trade.source, trade.instrument, trade.symbol
        assert fields.regular[row] == (not trade.metadata and all(t.isascii() for t in texts))
        if fields.regular[row]:
            check(data, fields, row, trade)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.tuples(TRADES, st.integers(0, 200), st.integers(0, 255)), max_size=8))
def test_damaged_messages_are_never_taken_for_others(cases):
    messages = []
    for trade, at, byte in cases:
        damaged = bytearray(trade.SerializeToString())
        if at < len(damaged):
            damaged[at] = byte
        messages.append(bytes(damaged))
    data, fields = read(messages)
    for row, message in enumerate(messages):
        if fields.regular[row]:
            check(data, fields, row, Trade.FromString(message))


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_noise_is_never_taken_for_a_message(messages):
    data, fields = read(messages)
    for row, message in enumerate(messages):
        if fields.regular[row]:
            check(data, fields, row, Trade.FromString(message))


@given(st.lists(TRADES, min_size=2, max_size=6))
def test_whether_a_message_fits_depends_on_itself_alone(trades):
    messages = [trade.SerializeToString()[::-1] for trade in trades]
    messages += [trade.SerializeToString() for trade in trades]
    _, together = read(messages)
    alone = [bool(read([message])[1].regular[0]) for message in messages]
    assert together.regular.tolist() == alone


def test_a_message_the_library_refuses_is_left_to_it():
    good = Trade(event_id="a", instrument="sim.A").SerializeToString()
    for message in (good[:-1], b"\x0a\xff", b"\x48" + b"\xff" * 11, b"\x0a\x02\xc3\x28"):
        try:
            Trade.FromString(message)
        except DecodeError:
            assert not read([good, message])[1].regular[1]
        else:
            raise AssertionError(f"{message!r} should be damaged")
