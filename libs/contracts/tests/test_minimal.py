"""The minimal JSON form, exact for every event."""

import json
from decimal import Decimal

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1 import event_type_pb2 as types
from coinmesh_contracts.events.v1.bar_pb2 import Bar
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameBatch
from coinmesh_contracts.events.v1.gap_pb2 import GAP_CAUSE_SEQUENCE_BREAK, GAP_STATE_OPEN, Gap
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.events.v1.quote_pb2 import Quote
from coinmesh_contracts.events.v1.reference_price_pb2 import ReferencePrice
from coinmesh_contracts.events.v1.token_transfer_pb2 import TokenTransfer
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_SELL, Trade
from coinmesh_contracts.minimal import render

KEYS = ["timestamp", "source", "type", "symbol", "price", "size", "metadata"]
INT64 = st.integers(-(2**63), 2**63 - 1)
MESSAGES = [topic.message for topic in topics.ALL if topic.message is not None]


def parsed(event: Message) -> dict:
    text = render(event)
    assert "\n" not in text
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def trade(**fields: object) -> Trade:
    values: dict = {
        "event_id": "binance.BTC-USDT:trade:42",
        "event_time": 1_723_075_200_123_456,
        "receive_time": 1_723_075_200_200_000_000,
        "source": "binance",
        "type": types.EVENT_TYPE_TRADE,
        "instrument": "binance.BTC-USDT",
        "symbol": "BTCUSDT",
        "trade_id": 42,
        "price_units": 5_512_345_000_000,
        "price_exponent": -8,
        "size_units": 1_000,
        "size_exponent": -8,
        "taker_side": TAKER_SIDE_SELL,
        "metadata": {"venue_note": "x"},
    }
    return Trade(**{**values, **fields})


def test_a_trade_is_rendered_digit_for_digit():
    assert render(trade()) == (
        '{"timestamp":1723075200.123456,"source":"binance","type":"trade","symbol":"BTCUSDT",'
        '"price":55123.45000000,"size":0.00001000,"metadata":{"venue_note":"x",'
        '"event_id":"binance.BTC-USDT:trade:42","receive_time":1723075200200000000,'
        '"instrument":"binance.BTC-USDT","trade_id":42,"taker_side":"sell"}}'
    )


@given(
    price=INT64,
    size=INT64,
    exponents=st.tuples(st.integers(-40, 20), st.integers(-40, 20)),
    time=st.none() | INT64,
    symbol=st.text(),
)
def test_a_trade_is_exact(
    price: int, size: int, exponents: tuple[int, int], time: int | None, symbol: str
):
    event = trade(
        price_units=price, price_exponent=exponents[0], size_units=size, size_exponent=exponents[1]
    )
    event.symbol = symbol
    event.ClearField("event_time")
    if time is not None:
        event.event_time = time
    form = parsed(event)
    assert list(form) == KEYS
    assert form["price"] == Decimal(f"{price}E{exponents[0]}")
    assert form["size"] == Decimal(f"{size}E{exponents[1]}")
    assert form["timestamp"] == (None if time is None else Decimal(f"{time}E-6"))
    assert form["symbol"] == (symbol or "binance.BTC-USDT")


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_every_event_has_the_form_even_when_empty(message: type[Message]):
    form = parsed(message())
    assert list(form) == KEYS
    assert form["timestamp"] is None
    assert form["symbol"] is None


def test_a_quote_gives_the_exact_middle():
    event = Quote(bid_price_units=101, ask_price_units=102, price_exponent=-2, size_exponent=-1)
    event.bid_size_units = event.ask_size_units = 5
    form = parsed(event)
    assert form["price"] == Decimal("1.015")
    assert form["size"] is None
    assert (form["metadata"]["bid_price"], form["metadata"]["ask_size"]) == ("1.01", "0.5")


def test_a_quote_with_an_empty_side_has_no_price():
    event = Quote(bid_price_units=101, bid_size_units=5, price_exponent=-2)
    assert parsed(event)["price"] is None


def test_a_book_lists_its_levels():
    event = BookUpdate(
        bid_price_units=[100, 99],
        bid_size_units=[1, 0],
        price_exponent=-1,
        size_exponent=-8,
        trusted_low_units=5,
    )
    form = parsed(event)
    assert form["price"] is form["size"] is None
    assert form["metadata"]["bid_price"] == ["10.0", "9.9"]
    assert form["metadata"]["bid_size"] == ["0.00000001", "0.00000000"]
    assert form["metadata"]["trusted_low"] == "0.5"
    assert "trusted_high" not in form["metadata"]


def test_a_bar_gives_close_and_volume():
    event = Bar(close_units=12345, price_exponent=-2, volume="3.10", final=True)
    form = parsed(event)
    assert (form["price"], form["size"]) == (Decimal("123.45"), Decimal("3.10"))
    assert form["metadata"]["final"] is True


def test_reference_price_units_print_with_their_own_exponents():
    event = ReferencePrice(
        price_units=7697512, price_exponent=-2, market_cap_units=15, market_cap_exponent=3
    )
    form = parsed(event)
    assert form["price"] == Decimal("76975.12")
    assert form["metadata"]["market_cap"] == "15000"
    assert "volume_24h" not in form["metadata"]


@pytest.mark.parametrize("text", ["", "NaN", "1e5", "0x10", "01", "1,2", '1,"x":2'])
def test_a_decimal_string_that_is_no_json_number_is_null(text: str):
    form = parsed(Bar(volume=text))
    assert form["size"] is None
    assert form["metadata"]["volume"] == text


def test_enums_are_plain_words():
    event = Gap(cause=GAP_CAUSE_SEQUENCE_BREAK, state=GAP_STATE_OPEN, type=types.EVENT_TYPE_GAP)
    form = parsed(event)
    assert form["type"] == "gap"
    assert form["metadata"]["cause"] == "sequence_break"
    assert form["metadata"]["state"] == "open"


def test_an_instrument_gives_tick_and_lot_as_decimals():
    event = Instrument(tick_size=1_000_000, lot_size=1_000, price_exponent=-8, size_exponent=-8)
    metadata = parsed(event)["metadata"]
    assert (metadata["tick_size"], metadata["lot_size"]) == ("0.01000000", "0.00001000")


def test_bytes_are_hexadecimal_on_chains_and_text_or_base64_elsewhere():
    transfer = parsed(TokenTransfer(token=b"\xab\x01", value=(10**30).to_bytes(32, "big")))
    assert transfer["metadata"]["token"] == "0xab01"
    assert transfer["metadata"]["value"] == str(10**30)
    batch = FrameBatch()
    batch.frames.add(payload=b'{"e":1}')
    batch.frames.add(payload=b"\xff")
    frames = parsed(batch)["metadata"]["frames"]
    assert [frame["payload"] for frame in frames] == ['{"e":1}', {"base64": "/w=="}]
