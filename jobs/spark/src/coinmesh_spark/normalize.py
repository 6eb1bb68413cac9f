"""Converts trades to one decimal exponent per instrument.

A venue's exponent is constant, except that an amount too big for 64 bits has a greater one. An
instrument uses the finest exponent that its trades have needed so far; amounts that then don't fit
are rejected. Both depend on the trades' order alone, not on their division into batches: trades
before the one that needs a finer exponent are folded, closed and published at the coarser one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from coinmesh_spark.state import Instrument, Partition
from coinmesh_spark.trades import Flags, Ints, Trades

OUT_OF_RANGE: Final = "VALUE_OUT_OF_RANGE"
_PRICE_LIMIT: Final = 1 << 63
_SIZE_LIMIT: Final = 1 << 96
_QUOTE_LIMIT: Final = 1 << 110
"""With each product below this, a batch's sum for 2^17 trades fits 128 bits."""
_SURELY_BELOW: Final = 2.0**109
"""A product whose floating-point result is below this is below the limit."""


class Units:
    """The trades' amounts in their instruments' units, if these differ from the trades' own."""

    def __init__(self, trades: Trades) -> None:
        self._trades = trades
        self._prices = trades.price
        self._sizes: dict[int, int] = {}

    def set(self, row: int, price: int, size: int) -> None:
        """Set a row's amounts."""
        if not self._sizes:
            self._prices = self._trades.price.copy()
        self._prices[row] = price
        self._sizes[row] = size

    def prices(self, rows: Ints) -> Ints:
        """Return the prices of rows."""
        return self._prices[rows]

    def sizes(self, rows: Ints) -> Ints | list[int]:
        """Return the sizes of rows, which may exceed 64 bits."""
        own = self._trades.size[rows]
        if not self._sizes:
            return own
        sizes: list[int] = own.tolist()
        return [self._sizes.get(int(row), size) for row, size in zip(rows, sizes, strict=True)]


class Step(NamedTuple):
    """The row from which an instrument has finer exponents."""

    row: int
    instrument: str
    price_exponent: int
    size_exponent: int


@dataclass
class Normalized:
    """Trades in their instruments' units.

    Attributes:
        units: The amounts, each at the exponents that its instrument has at its row.
        kept: Which rows fit.
        rejected: The others, each with the reason.
        steps: The rows from which exponents become finer.
    """

    units: Units
    kept: Flags
    rejected: list[tuple[int, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def normalize(state: Partition, trades: Trades) -> Normalized:
    """Return the trades in their instruments' units; set the exponents of new instruments."""
    found = Normalized(Units(trades), np.ones(len(trades), dtype=np.bool_))
    for code, rows in by_instrument(trades.instrument):
        name = trades.instruments[code]
        instrument = state.open(name)
        if not _all_plain(instrument, trades, rows):
            _one_by_one(name, instrument, trades, rows, found)
    found.rejected.sort()
    found.steps.sort()
    return found


def by_instrument(instrument: Ints) -> Iterator[tuple[int, Ints]]:
    """Yield each instrument's code and rows, in the partition's order."""
    if not len(instrument):
        return
    order = np.argsort(instrument, kind="stable")
    codes = instrument[order]
    starts = np.flatnonzero(np.diff(codes)) + 1
    for rows in np.split(order, starts):
        yield int(instrument[rows[0]]), rows


def _all_plain(instrument: Instrument, trades: Trades, rows: Ints) -> bool:
    """Return whether all rows surely fit and have their instrument's exponents, the usual case."""
    prices = trades.price[rows]
    price_exponents, size_exponents = trades.price_exponent[rows], trades.size_exponent[rows]
    exponents = (
        (instrument.price_exponent, instrument.size_exponent)
        if instrument.known
        else (int(price_exponents[0]), int(size_exponents[0]))
    )
    products = prices.astype(np.float64) * trades.size[rows].astype(np.float64)
    plain = (price_exponents == exponents[0]) & (size_exponents == exponents[1])
    if not bool((plain & (products < _SURELY_BELOW)).all()):
        return False
    instrument.price_exponent, instrument.size_exponent = exponents
    instrument.highest = max(instrument.highest, int(prices.max()))
    return True


def _one_by_one(
    name: str, instrument: Instrument, trades: Trades, rows: Ints, found: Normalized
) -> None:
    known = instrument.known
    current = instrument.price_exponent, instrument.size_exponent
    highest = instrument.highest_price()
    for row in rows.tolist():
        amounts = int(trades.price[row]), int(trades.size[row])
        own = int(trades.price_exponent[row]), int(trades.size_exponent[row])
        needed = own
        if known:
            needed = (
                _finest(current[0], amounts[0], own[0]),
                _finest(current[1], amounts[1], own[1]),
            )
        price = amounts[0] * 10 ** max(own[0] - needed[0], 0) // 10 ** max(needed[0] - own[0], 0)
        size = amounts[1] * 10 ** max(own[1] - needed[1], 0) // 10 ** max(needed[1] - own[1], 0)
        grown = max(price, highest * 10 ** (current[0] - needed[0]) if known else 0)
        if grown >= _PRICE_LIMIT or size >= _SIZE_LIMIT or price * size >= _QUOTE_LIMIT:
            found.rejected.append((row, OUT_OF_RANGE))
            found.kept[row] = False
            continue
        if not known:
            instrument.price_exponent, instrument.size_exponent = needed
        elif needed != current:
            found.steps.append(Step(row, name, *needed))
        known, current, highest = True, needed, grown
        found.units.set(row, price, size)
    instrument.highest = highest


def _finest(exponent: int, amount: int, own: int) -> int:
    """Return the exponent at which an amount is whole, not coarser than `exponent`."""
    return own if own < exponent and amount % 10 ** (exponent - own) else exponent
