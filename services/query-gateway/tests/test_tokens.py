"""Page tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import InvalidArgument
from query_gateway import tokens

ARGUMENTS = ("binance.BTC-USDT", 60_000, None, 5)
FAR = ("binance.BTC-USDT", -62_135_596_800 * 10**9, 253_402_300_799 * 10**9)


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=50))
def test_a_token_gives_its_position_back(number: int, text: str) -> None:
    token = tokens.make("ListBars", ARGUMENTS, [number, text])
    assert tokens.read(token, "ListBars", ARGUMENTS, (int, str)) == [number, text]
    assert token.replace("-", "").replace("_", "").isalnum()


def test_times_far_off_are_arguments_like_others() -> None:
    assert tokens.read(tokens.make("ListBars", FAR, [1]), "ListBars", FAR, (int,)) == [1]


def refused(token: str, method: str = "ListBars", arguments: tuple[object, ...] = ARGUMENTS) -> str:
    with pytest.raises(InvalidArgument) as caught:
        tokens.read(token, method, arguments, (int,))
    return caught.value.reason


def test_a_token_of_another_method_arguments_or_shape_is_refused() -> None:
    token = tokens.make("ListBars", ARGUMENTS, [1])
    assert refused(token, method="ListTrades") == "BAD_PAGE_TOKEN"
    assert refused(token, arguments=("binance.ETH-USDT", 60_000, None, 5)) == "BAD_PAGE_TOKEN"
    assert refused(tokens.make("ListBars", ARGUMENTS, ["1"])) == "BAD_PAGE_TOKEN"


@given(st.text(max_size=200))
def test_garbage_is_refused(text: str) -> None:
    assert refused(text) == "BAD_PAGE_TOKEN"


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = tokens.make("ListBars", ARGUMENTS, [123_456])
    at = data.draw(st.integers(0, len(token) - 2))
    other = data.draw(st.sampled_from([c for c in "Aa0_" if c != token[at]]))
    assert refused(token[:at] + other + token[at + 1 :]) == "BAD_PAGE_TOKEN"
