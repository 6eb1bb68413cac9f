"""Exact decimals: the pair (units, exponent) used in events, and its plain text.

`units · 10^exponent` is the value: 12345 with exponent -2 is 123.45. No float is involved.
"""

from __future__ import annotations

_MAX_EXPONENT = 4096


def to_string(units: int, exponent: int) -> str:
    """Return plain notation with all `-exponent` fraction digits: (12300, -2) is `123.00`."""
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"exponent {exponent} is beyond ±{_MAX_EXPONENT}")
    if exponent >= 0:
        return str(units * 10**exponent)
    scale = -exponent
    digits = str(abs(units)).rjust(scale + 1, "0")
    sign = "-" if units < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}"


def parse(text: str, exponent: int) -> int:
    """Return the units of `text` at `exponent`; ValueError if it isn't a plain decimal or doesn't
    fit.

    Accepts `[-+]digits[.digits]` in ASCII; digits beyond the exponent must be zeros.
    """
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"exponent {exponent} is beyond ±{_MAX_EXPONENT}")
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    whole, dot, fraction = unsigned.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or not whole or (dot and not fraction):
        raise ValueError(f"{text!r} is not a plain decimal number")
    shift = -exponent - len(fraction)
    value = int(digits)
    if shift >= 0:
        units = value * 10**shift
    else:
        units, rest = divmod(value, 10**-shift)
        if rest:
            raise ValueError(f"{text!r} has more than {-exponent} fraction digits")
    return -units if text.startswith("-") else units


def rescale(units: int, exponent: int, target: int) -> int:
    """Return the value's units at the exponent `target`; ValueError if digits would be lost."""
    if exponent >= target:
        return units * 10 ** (exponent - target)
    quotient, rest = divmod(abs(units), 10 ** (target - exponent))
    if rest:
        raise ValueError(f"{to_string(units, exponent)} can't be held at exponent {target}")
    return -quotient if units < 0 else quotient
