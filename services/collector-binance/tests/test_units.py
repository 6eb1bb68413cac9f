"""Prices and sizes: exact, guarded, and the same one by one as in bulk."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector_binance.core.units import DecimalError, fit, parse, parse_any_scale, parse_sides

plain = st.decimals(
    min_value=0, max_value=10**12, places=8, allow_nan=False, allow_infinity=False
).map(lambda value: f"{value:.8f}")
odd = st.one_of(
    plain,
    st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,12})?", fullmatch=True),
    st.sampled_from(
        [
            "",
            ".",
            "1.",
            ".00000001",
            "1_0.00000000",
            " 1.00000000",
            "+1.00000000",
            "-1.00000000",
            "1,2.00000000",
            "1.2.00000000",
            "٣.00000000",
            "1e8",
            "NaN",
            "0.00000000\n",
            "1.000000000",
            "0.000000001",
            "²1.00000000",
        ]
    ),
    st.text(max_size=14),
)


def outcome(text: str) -> int | None:
    try:
        return parse(text)
    except DecimalError:
        return None


@given(odd)
def test_parse_is_exact_or_refuses(text: str) -> None:
    units = outcome(text)
    if units is not None:
        assert text.isascii()
        assert not set(text) - set("0123456789.")
        assert Decimal(text) == Decimal(units).scaleb(-8)


@given(plain)
def test_what_the_venue_prints_is_never_refused(text: str) -> None:
    assert Decimal(parse(text)).scaleb(-8) == Decimal(text)


sides = st.lists(st.tuples(odd, odd), max_size=3) | st.lists(st.tuples(plain, plain), max_size=4)


@given(sides, sides)
def test_bulk_equals_one_by_one(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
    single = [outcome(text) for level in (*bids, *asks) for text in level]
    try:
        parsed = parse_sides(*(json.dumps(s, separators=(",", ":")).encode() for s in (bids, asks)))
    except DecimalError:
        assert None in single
    else:
        flat = [unit for side in parsed for level in zip(*side, strict=True) for unit in level]
        assert flat == single
        assert [len(side[0]) for side in parsed] == [len(bids), len(asks)]


@given(st.from_regex(r"[0-9]{1,16}(\.[0-9]{1,12})?", fullmatch=True))
def test_any_scale_keeps_the_value_within_64_bits(text: str) -> None:
    try:
        units, exponent = parse_any_scale(text)
    except DecimalError:
        assert len(text.replace(".", "").strip("0")) > 18
    else:
        assert 0 <= units < 1 << 63
        assert Decimal(units).scaleb(exponent) == Decimal(text)


def test_values_beyond_64_bits_take_a_larger_step_or_are_refused() -> None:
    assert fit([7, 8]) == ([7, 8], -8)
    assert fit([10**20, 300]) == ([10**18, 3], -6)
    with pytest.raises(DecimalError):
        fit([10**30 + 1])
