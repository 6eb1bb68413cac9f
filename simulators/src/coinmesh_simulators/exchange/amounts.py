"""Decimal text and the integers behind it: prices and sizes count 10^-8, quote amounts 10^-16."""

SCALE = 8
ONE = 10**SCALE


def to_units(text: str) -> int:
    """`"61837.63"` as 6183763000000 units of 10^-8.

    Raises ValueError when the text is not a plain non-negative decimal of at most 8 decimals.
    """
    whole, _, fraction = text.partition(".")
    if len(fraction) != SCALE:
        fraction = fraction.rstrip("0").ljust(SCALE, "0")
    digits = whole + fraction
    if len(fraction) > SCALE or not whole or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} is not a decimal with at most {SCALE} decimals")
    return int(digits)


def to_text(units: int) -> str:
    """Units of 10^-8 in the venue's form, always eight decimals: `"61837.63000000"`."""
    return f"{units // ONE}.{units % ONE:08d}"


def quote_amount(price: int, quantity: int) -> int:
    """Price times size in units of 10^-16, cut to the eight decimals that the venue keeps."""
    return price * quantity // ONE * ONE


def quote_text(units: int) -> str:
    """A quote amount (units of 10^-16) with eight decimals, as the venue prints all amounts."""
    return to_text(units // ONE)


def power_of_ten_below(divisor: int) -> int:
    """The largest power of ten that divides every observed amount (`divisor` is their gcd)."""
    step = 1
    while divisor and divisor % (step * 10) == 0:
        step *= 10
    return min(step, ONE)
