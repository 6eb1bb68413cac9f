"""Decimal text and the integers behind it: prices and sizes count 10^-8, quote amounts 10^-16."""

SCALE = 8
ONE = 10**SCALE


def to_units(text: str) -> int:
    """Return `"61837.63"` as 6183763000000 units of 10^-8.

    Raises:
        ValueError: The text is not a plain non-negative decimal with at most 8 decimals.
    """
    whole, _, fraction = text.partition(".")
    if len(fraction) != SCALE:
        fraction = fraction.rstrip("0").ljust(SCALE, "0")
    digits = whole + fraction
    if len(fraction) > SCALE or not whole or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} is not a decimal with at most {SCALE} decimals")
    return int(digits)


def to_text(units: int) -> str:
    """Return units of 10^-8 in the venue's format with eight decimals: `"61837.63000000"`."""
    return f"{units // ONE}.{units % ONE:08d}"


def quote_amount(price: int, quantity: int) -> int:
    """Return price times size in units of 10^-16, truncated to the venue's eight decimals."""
    return price * quantity // ONE * ONE


def quote_text(units: int) -> str:
    """Return a quote amount (units of 10^-16) with eight decimals, like all venue amounts."""
    return to_text(units // ONE)


def power_of_ten_below(divisor: int) -> int:
    """Return the largest power of ten that divides every observed amount (`divisor`: their gcd)."""
    step = 1
    while divisor and divisor % (step * 10) == 0:
        step *= 10
    return min(step, ONE)
