"""What a request may ask for."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from market_data import quote, trade

from coinmesh_contracts.market.v1.market_service_pb2 import ListBarsRequest
from meshkit.errors import InvalidArgument, NotFound
from query_gateway import latest, requests, trades
from query_gateway.live_view import LiveView, QuoteRow
from query_gateway.trades import TradeRow

KNOWN = ["binance.BTC-USDT", "binance.ETH-USDT", "binance.ETH-BTC"]


@pytest.mark.parametrize("name", ["binance.btc-usdt", "binance.BTCUSDT", "BTC-USDT"])
def test_an_unknown_instrument_names_near_matches(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        requests.instrument(name, KNOWN)
    assert caught.value.reason == "UNKNOWN_INSTRUMENT"
    assert "binance.BTC-USDT" in caught.value.message


def test_an_instrument_like_no_other_is_pointed_to_the_list() -> None:
    with pytest.raises(NotFound, match="/v1/instruments"):
        requests.instrument("?" * 5000, KNOWN)
    with pytest.raises(InvalidArgument):
        requests.instrument("", KNOWN)


def ranged(**times: Timestamp) -> ListBarsRequest:
    return ListBarsRequest(**times)  # type: ignore[arg-type]


def test_an_inverted_range_and_impossible_times_are_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        requests.time_range(ranged(start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=4)))
    assert caught.value.reason == "INVERTED_RANGE"
    for wrong in (Timestamp(seconds=2**62), Timestamp(nanos=-1), Timestamp(nanos=10**9)):
        with pytest.raises(InvalidArgument) as caught:
            requests.time_range(ranged(start_time=wrong))
        assert caught.value.reason == "BAD_TIME"
    assert requests.time_range(ranged(end_time=Timestamp(seconds=1, nanos=1))) == (
        None,
        1_000_000_001,
    )


@given(st.integers(-(10**20), 10**20), st.integers(0, 10**13))
def test_a_bound_in_milliseconds_chooses_the_same_starts(bound: int, start_ms: int) -> None:
    assert (start_ms >= requests.ceil_ms(bound, 0)) == (start_ms * 1_000_000 >= bound) or (
        bound > requests.MAX_MS * 1_000_000
    )


def test_sizes_have_a_default_and_a_bound() -> None:
    assert requests.size("page_size", 0, 500, 1000) == 500
    assert requests.size("page_size", 5000, 500, 1000) == 1000
    for value, reason in [(-1, "NEGATIVE_SIZE"), (1001, "TOO_LARGE")]:
        with pytest.raises(InvalidArgument) as caught:
            requests.strict_size("depth", value, 20, 1000)
        assert caught.value.reason == reason


def test_a_latest_value_comes_back_as_it_was_written() -> None:
    view = LiveView(100)
    view.apply(quote(5))
    rows = [
        ("trade", TradeRow, trades.from_event(trade(7, 1_000_000))),
        ("quote", QuoteRow, view.quotes["binance.BTC-USDT"]),
    ]
    for kind, row_type, row in rows:
        written = latest.versioned(kind, "x", row)
        assert latest.decode(row_type, written.data) == row  # type: ignore[type-var]


@given(st.binary(max_size=80) | st.sampled_from([b"[]", b"[1,2]", b'{"a":1}', b"null", b"7"]))
def test_a_damaged_latest_value_is_left_out(data: bytes) -> None:
    assert latest.decode(TradeRow, data) is None


@given(st.lists(st.tuples(st.integers(1, 10**13), st.integers(1, 9)), min_size=2, max_size=2))
def test_versions_order_as_text(pair: list[tuple[int, int]]) -> None:
    rows = [trades.from_event(trade(number, time_us)) for time_us, number in pair]
    versions = [latest.versioned("trade", "x", row).version for row in rows]
    assert (versions[0] < versions[1]) == (rows[0].key < rows[1].key)
