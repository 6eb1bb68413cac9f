"""Units and exponents against the decimal module."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts.decimals import parse, rescale, to_string

UNITS = st.integers(-(10**40), 10**40)
EXPONENTS = st.integers(-30, 30)


@given(UNITS, EXPONENTS)
def test_text_is_exact(units: int, exponent: int):
    expected = Decimal(f"{units}E{exponent}")
    assert Decimal(to_string(units, exponent)) == expected
    assert "E" not in to_string(units, exponent)


@given(UNITS, st.integers(-30, 0))
def test_text_keeps_every_fraction_digit(units: int, exponent: int):
    _, _, fraction = to_string(units, exponent).partition(".")
    assert len(fraction) == -exponent


@given(UNITS, EXPONENTS)
def test_parse_reads_what_to_string_writes(units: int, exponent: int):
    assert parse(to_string(units, exponent), exponent) == units or exponent > 0


@given(UNITS, st.integers(-30, 30), st.integers(0, 30))
def test_rescale_to_a_finer_exponent_goes_back(units: int, exponent: int, finer: int):
    fine = rescale(units, exponent, exponent - finer)
    assert Decimal(to_string(fine, exponent - finer)) == Decimal(to_string(units, exponent))
    assert rescale(fine, exponent - finer, exponent) == units


@pytest.mark.parametrize(
    ("text", "exponent", "units"),
    [
        ("61234.50000000", -8, 6123450000000),
        ("61234.5", -8, 6123450000000),
        ("-0.00000001", -8, -1),
        ("+1.10", -1, 11),
        ("0", -8, 0),
        ("1200", 2, 12),
        ("0.10", -1, 1),
    ],
)
def test_parse(text: str, exponent: int, units: int):
    assert parse(text, exponent) == units


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".5", "1e5", "NaN", "Infinity", "1,5", " 1", "1_0", "--1", "٣", "1.2.3", "0x1"],
)
def test_parse_refuses_what_is_not_a_plain_decimal(text: str):
    with pytest.raises(ValueError, match="is not a plain decimal"):
        parse(text, -8)


def test_parse_refuses_to_lose_digits():
    with pytest.raises(ValueError, match="more than 8 fraction digits"):
        parse("0.000000001", -8)
    with pytest.raises(ValueError, match="more than -2 fraction digits"):
        parse("1250", 2)


def test_rescale_refuses_to_lose_digits():
    with pytest.raises(ValueError, match=r"0\.15 can't be held"):
        rescale(15, -2, -1)


def test_absurd_exponents_are_refused():
    with pytest.raises(ValueError, match="beyond"):
        to_string(1, 10**9)
    with pytest.raises(ValueError, match="beyond"):
        parse("1", -(10**9))
