"""What clients send: page and resume tokens, names, times, sizes; and what Redis may hold."""

import base64
import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from inputs import FUZZ, VALUES, damaged

from coinmesh_contracts.market.v1 import market_service_pb2
from coinmesh_sources import service
from meshkit.errors import MeshError
from query_gateway import intervals, requests, resume_tokens, tokens
from query_gateway.latest import decode
from query_gateway.live_view import QuoteRow

OPAQUE = (
    st.text(max_size=60)
    | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
    | VALUES.map(lambda v: base64.urlsafe_b64encode(json.dumps(v).encode()).decode())
)
SHAPES = st.sampled_from([(int,), (str,), (int, str), (str, int, int)])


def refused_or(read: Any) -> object:
    """What `read` returns; only a mesh's own error, with a reason, may come instead."""
    try:
        return read()
    except MeshError as error:
        assert error.reason
        return None


@FUZZ
@given(OPAQUE, st.text(max_size=10), SHAPES)
def test_page_tokens(token: str, method: str, shape: tuple[type, ...]) -> None:
    position = refused_or(lambda: tokens.read(token, method, ("a", 1), shape))
    assert position is None or tuple(map(type, position)) == shape  # type: ignore[arg-type]


@FUZZ
@given(st.lists(st.integers(-(2**62), 2**62) | st.text(max_size=9), max_size=3), st.data())
def test_a_page_token_changed_anywhere_is_refused(position: list[Any], data: Any) -> None:
    shape = tuple(map(type, position))
    token = tokens.make("m", ("a",), position)
    assert tokens.read(token, "m", ("a",), shape) == position
    other = data.draw(damaged(token.encode())).decode("latin-1")
    read = refused_or(lambda: tokens.read(other, "m", ("a",), shape))
    assert read in (None, position)


@FUZZ
@given(OPAQUE)
def test_resume_tokens(token: str) -> None:
    position = refused_or(lambda: resume_tokens.read_token(token))
    assert position is None or all(offset >= 0 for offset in position.values())  # type: ignore[attr-defined]


@FUZZ
@given(OPAQUE)
def test_the_collectors_page_tokens(token: str) -> None:
    refused_or(lambda: service._decode_token(token))


@FUZZ
@given(st.text(max_size=20) | st.from_regex(r"[0-9]{1,12}[smhd]", fullmatch=True))
def test_intervals(name: str) -> None:
    found = refused_or(lambda: intervals.parse(name))
    assert found is None or 86_400_000 % found.ms == 0  # type: ignore[attr-defined]


TIMES = st.builds(
    Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
)


@FUZZ
@given(TIMES, TIMES, st.integers(-(2**31), 2**31 - 1), st.text(max_size=20))
def test_times_sizes_and_names(start: Timestamp, end: Timestamp, size: int, name: str) -> None:
    request = market_service_pb2.ListBarsRequest(start_time=start, end_time=end)
    span = refused_or(lambda: requests.time_range(request))
    assert span is None or span[0] <= span[1]  # type: ignore[index]
    found = refused_or(lambda: requests.size("page_size", size, 100, 1000))
    assert found is None or 1 <= found <= 1000  # type: ignore[operator]
    refused_or(lambda: requests.instrument(name, {"binance.BTC-USDT"}))


@FUZZ
@given(VALUES.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=60))
def test_cached_values(data: bytes) -> None:
    decode(QuoteRow, data)
