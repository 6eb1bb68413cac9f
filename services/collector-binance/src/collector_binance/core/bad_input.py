"""Errors of input that can't be used, and the reasons in their dead letters."""

from __future__ import annotations

from typing import Final

import msgspec

from collector_binance.core.units import DecimalError

BAD_INPUT: Final = (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError)


class WrongSymbolError(ValueError):
    """A frame's symbol is not that of its stream."""


def reason_of(error: Exception) -> str:
    """The reason of a dead letter."""
    if isinstance(error, DecimalError):
        return "BAD_NUMBER"
    if isinstance(error, WrongSymbolError):
        return "WRONG_SYMBOL"
    if isinstance(error, msgspec.ValidationError):
        return "INVALID_MESSAGE"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return "NOT_JSON"
    return "UNKNOWN_MESSAGE"
