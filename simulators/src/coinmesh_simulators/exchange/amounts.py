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


def quote_text(units: int) -> str:
    """Units of 10^-16 (price times size) with as many decimals as are exact, at least eight."""
    square = ONE * ONE
    fraction = f"{units % square:016d}"
    return f"{units // square}.{fraction[:8]}{fraction[8:].rstrip('0')}"


def power_of_ten_below(divisor: int) -> int:
    """The largest power of ten that divides every observed amount (`divisor` is their gcd)."""
    step = 1
    while divisor and divisor % (step * 10) == 0:
        step *= 10
    return min(step, ONE)
