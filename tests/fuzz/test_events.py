"""Records of every topic: framing, Protobuf, minimal JSON, Spark, audit chains."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from inputs import FUZZ, damaged

from coinmesh_audit.chain import Chains
from coinmesh_contracts import decimals, framing, topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_contracts.minimal import render
from coinmesh_spark.decode import Decoder as SparkDecoder
from meshkit.decoding import Decoder, UndecodableError
from meshkit.registry import SchemaIds

MESSAGES = {topic.name: topic.message for topic in topics.ALL if topic.message is not None}
HEADER = framing.header(7)
DECODER = Decoder(MESSAGES, SchemaIds(dict.fromkeys(MESSAGES, 7)), Any, Any)  # type: ignore[arg-type]
KEYS = ["timestamp", "source", "type", "symbol", "price", "size", "metadata"]


def filled(kind: type[Message]) -> bytes:
    """A message with something in every field."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            if field.message_type is None:
                getattr(message, field.name).extend([_some(field)] * 2)
            elif field.message_type.GetOptions().map_entry:
                getattr(message, field.name)["k"] = "v"
            else:
                getattr(message, field.name).add()
        elif field.message_type is None:
            setattr(message, field.name, _some(field))
    return message.SerializeToString()


def _some(field: Any) -> Any:
    kinds = {field.CPPTYPE_STRING: b"x" if field.type == field.TYPE_BYTES else "x"}
    return kinds.get(field.cpp_type, True if field.cpp_type == field.CPPTYPE_BOOL else 5)


@FUZZ
@given(
    st.sampled_from(sorted(MESSAGES)).flatmap(
        lambda topic: st.tuples(
            st.just(topic), damaged(HEADER + filled(MESSAGES[topic])) | st.none() | st.binary()
        )
    )
)
def test_a_record_is_an_event_or_refused_for_a_reason(case: tuple[str, bytes | None]) -> None:
    topic, value = case
    try:
        event = DECODER.decode_value(topic, value)
    except UndecodableError as error:
        assert error.reason.isupper()
    else:
        told = json.loads(render(event))
        assert list(told) == KEYS


@pytest.mark.parametrize("topic", MESSAGES)
def test_a_full_event_is_rendered(topic: str) -> None:
    assert list(json.loads(render(MESSAGES[topic].FromString(filled(MESSAGES[topic]))))) == KEYS


TRADE = (
    HEADER
    + Trade(
        event_id="binance.BTC-USDT:trade:1",
        instrument="binance.BTC-USDT",
        trade_id=1,
        event_time=1_723_075_200_000_000,
        price_units=1,
        price_exponent=-8,
        size_units=1,
        size_exponent=-8,
        taker_side=1,
    ).SerializeToString()
)


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.none() | st.just(b"binance.BTC-USDT") | st.binary(max_size=20),
            damaged(TRADE) | st.just(TRADE) | st.none() | st.binary(max_size=60),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_spark_takes_or_refuses_every_row(records: list[tuple[bytes | None, bytes | None]]) -> None:
    keys, values = zip(*records, strict=True)
    batch = pa.RecordBatch.from_pydict(
        {
            "key": pa.array(keys, pa.binary()),
            "value": pa.array(values, pa.binary()),
            "timestamp": pa.array(
                [datetime(2026, 1, 1, tzinfo=UTC)] * len(records), pa.timestamp("us", "UTC")
            ),
        }
    )
    decoded = SparkDecoder({7}, lambda _: False).decode(batch)
    assert len(decoded.rows) + len(decoded.bad) == len(records)
    for row in decoded.rows.tolist():
        value = records[row][1]
        assert value is not None
        assert value.startswith(HEADER)
        Trade.FromString(value[framing.HEADER_SIZE :])


@FUZZ
@given(
    st.text(max_size=40) | st.from_regex(r"[-+]?[0-9]{1,30}(\.[0-9]{0,30})?", fullmatch=True),
    st.integers(-100, 100),
)
def test_a_decimal_is_exact_or_refused(text: str, exponent: int) -> None:
    try:
        units = decimals.parse(text, exponent)
    except ValueError:
        return
    assert decimals.parse(decimals.to_string(units, exponent), exponent) == units


@FUZZ
@given(st.lists(st.tuples(st.binary(max_size=5), damaged(HEADER + filled(topics.AUDIT.message)))))
def test_audit_chains_bear_any_record(records: list[tuple[bytes, bytes]]) -> None:
    chains = Chains()
    for key, value in records:
        for finding in chains.add(key, value, "0@0"):
            assert str(finding)
    assert chains.records == len(records)
