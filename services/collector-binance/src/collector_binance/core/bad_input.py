"""Errors for invalid input, and the reasons in its dead letters."""

from __future__ import annotations

from typing import Final

import msgspec

from collector_binance.core.units import DecimalError

BAD_INPUT: Final = (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError)


class WrongSymbolError(ValueError):
    """A frame's symbol differs from that of its stream."""


def reason_of(error: Exception) -> str:
    """Return the reason of a dead letter."""
    if isinstance(error, DecimalError):
        return "BAD_NUMBER"
    if isinstance(error, WrongSymbolError):
        return "WRONG_SYMBOL"
    if isinstance(error, msgspec.ValidationError):
        return "INVALID_MESSAGE"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return "NOT_JSON"
    return "UNKNOWN_MESSAGE"
