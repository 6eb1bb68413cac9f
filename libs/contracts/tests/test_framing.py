"""Framing: what is written is read back, and what is not framed is refused with its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts import framing


@given(schema_id=st.integers(1, 2**31 - 1), payload=st.binary(max_size=64))
def test_a_framed_value_is_split_into_what_it_was_made_of(schema_id: int, payload: bytes) -> None:
    assert framing.split(framing.header(schema_id) + payload) == (schema_id, payload)


@pytest.mark.parametrize("schema_id", [0, -1, 2**31])
def test_an_impossible_schema_id_is_refused(schema_id: int) -> None:
    with pytest.raises(ValueError, match=str(schema_id)):
        framing.header(schema_id)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NOT_FRAMED"),
        (b"", "NOT_FRAMED"),
        (b"\x00\x00\x00\x00\x01", "NOT_FRAMED"),
        (b"\x01\x00\x00\x00\x01\x00", "BAD_MAGIC"),
        (b'{"e":"trade"}', "BAD_MAGIC"),
        (b"\x00\x00\x00\x00\x01\x02\x0c", "BAD_MESSAGE_INDEX"),
    ],
)
def test_what_is_not_framed_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(framing.FramingError) as caught:
        framing.split(value)
    assert caught.value.reason == reason


@given(st.binary(max_size=32))
def test_any_bytes_are_split_or_refused(value: bytes) -> None:
    try:
        schema_id, payload = framing.split(value)
    except framing.FramingError:
        return
    assert value == b"\x00" + schema_id.to_bytes(4, "big") + b"\x00" + payload
