"""One decimal exponent per instrument, whatever its single events use.

A venue's exponent is constant, except that an amount too big for 64 bits comes with a smaller one.
An instrument takes the finest exponent that its trades need; what then doesn't fit is rejected.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from coinmesh_spark.state import Instrument
from coinmesh_spark.trades import Ints, Trades

OUT_OF_RANGE: Final = "VALUE_OUT_OF_RANGE"
_PRICE_LIMIT: Final = 1 << 63
_SIZE_LIMIT: Final = 1 << 96
_QUOTE_LIMIT: Final = 1 << 110
"""A batch's sum of products below this fits 128 bits for 2^17 trades."""


class Units:
    """The trades' amounts in their instruments' units, where these differ from the trades' own."""

    def __init__(self, trades: Trades) -> None:
        self._trades = trades
        self._prices = trades.price
        self._sizes: dict[int, int] = {}

    def set(self, row: int, price: int, size: int) -> None:
        """Give a row's amounts."""
        if not self._sizes:
            self._prices = self._trades.price.copy()
        self._prices[row] = price
        self._sizes[row] = size

    def prices(self, rows: Ints) -> Ints:
        """The prices of rows."""
        return self._prices[rows]

    def sizes(self, rows: Ints) -> Ints | list[int]:
        """The sizes of rows, which may exceed 64 bits."""
        own = self._trades.size[rows]
        if not self._sizes:
            return own
        sizes: list[int] = own.tolist()
        return [self._sizes.get(int(row), size) for row, size in zip(rows, sizes, strict=True)]


def to_units(
    instrument: Instrument,
    trades: Trades,
    rows: Ints,
    units: Units,
    rejected: list[tuple[int, str]],
) -> Ints:
    """Bring an instrument's rows to its exponents, which may become finer; the rows that fit."""
    price_exponents, size_exponents = trades.price_exponent[rows], trades.size_exponent[rows]
    if not instrument.known:
        instrument.price_exponent = int(price_exponents[0])
        instrument.size_exponent = int(size_exponents[0])
    fits = trades.price[rows].astype(np.float64) * trades.size[rows].astype(np.float64) < float(
        _QUOTE_LIMIT
    )
    plain = (price_exponents == instrument.price_exponent) & (
        size_exponents == instrument.size_exponent
    )
    if bool((plain & fits).all()):
        return rows
    return _one_by_one(instrument, trades, rows, units, rejected)


def _one_by_one(
    instrument: Instrument,
    trades: Trades,
    rows: Ints,
    units: Units,
    rejected: list[tuple[int, str]],
) -> Ints:
    instrument_price = _finest(
        instrument.price_exponent, trades.price[rows], trades.price_exponent[rows]
    )
    instrument_size = _finest(
        instrument.size_exponent, trades.size[rows], trades.size_exponent[rows]
    )
    highest = max(
        (
            bar.high
            for window in instrument.windows.values()
            for bars in (window.open, window.closed)
            for bar in bars.values()
        ),
        default=0,
    )
    if highest * 10 ** (instrument.price_exponent - instrument_price) >= _PRICE_LIMIT:
        instrument_price = instrument.price_exponent
    instrument.rescale(instrument_price, instrument_size)
    kept: list[int] = []
    for row in rows.tolist():
        price = _rescaled(
            int(trades.price[row]), int(trades.price_exponent[row]), instrument.price_exponent
        )
        size = _rescaled(
            int(trades.size[row]), int(trades.size_exponent[row]), instrument.size_exponent
        )
        if (
            price is None
            or size is None
            or price >= _PRICE_LIMIT
            or size >= _SIZE_LIMIT
            or price * size >= _QUOTE_LIMIT
        ):
            rejected.append((row, OUT_OF_RANGE))
        else:
            units.set(row, price, size)
            kept.append(row)
    return np.array(kept, dtype=np.int64)


def _finest(exponent: int, amounts: Ints, exponents: Ints) -> int:
    """The exponent at which all amounts are whole, not coarser than `exponent`."""
    finest = exponent
    for amount, own in zip(amounts.tolist(), exponents.tolist(), strict=True):
        if own < finest and amount % 10 ** (finest - own):
            finest = own
    return finest


def _rescaled(amount: int, exponent: int, target: int) -> int | None:
    """The amount in units of 10^target; None if digits would be lost."""
    if exponent >= target:
        return amount * 10 ** (exponent - target)
    whole, rest = divmod(amount, 10 ** (target - exponent))
    return None if rest else whole
