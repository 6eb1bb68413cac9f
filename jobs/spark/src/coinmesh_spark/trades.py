"""Trades of one Kafka partition as columns, and their bars of one second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from coinmesh_spark.bars import Bar

MICROS: Final = 1_000_000
"""Microseconds in a second."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_WIDE: Final = pl.Int128
_ZERO: Final = pl.lit(0, dtype=_WIDE)


@dataclass(frozen=True)
class Trades:
    """Decoded trades in the order of their partition, as columns of equal length.

    Attributes:
        instruments: The instruments' names; `instrument` has indexes into it.
        instrument: Index of the instrument.
        trade_id: The venue's id.
        event_time: Microseconds since the Unix epoch.
        price: Units of 10^price_exponent.
        price_exponent: Decimal exponent of the price.
        size: Units of 10^size_exponent.
        size_exponent: Decimal exponent of the size.
        taker_buy: Whether the buyer took liquidity.
    """

    instruments: list[str]
    instrument: Ints
    trade_id: Ints
    event_time: Ints
    price: Ints
    price_exponent: Ints
    size: Ints
    size_exponent: Ints
    taker_buy: Flags

    def __len__(self) -> int:
        return len(self.trade_id)

    def take(self, which: Flags) -> Trades:
        """Return the trades for which `which` is true."""
        columns = {name: getattr(self, name)[which] for name in COLUMNS}
        return Trades(self.instruments, **columns)

    @classmethod
    def concatenated(cls, parts: Sequence[Trades]) -> Trades:
        """Return all trades of `parts`, in order."""
        codes: dict[str, int] = {}
        instrument: list[Ints] = []
        for part in parts:
            own = [codes.setdefault(name, len(codes)) for name in part.instruments]
            instrument.append(np.array(own, dtype=np.int64)[part.instrument])
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in COLUMNS
            if name != "instrument"
        }
        return cls(list(codes), instrument=np.concatenate(instrument), **columns)


COLUMNS: Final = tuple(column.name for column in fields(Trades) if column.name != "instruments")


def second_bars(
    trades: Trades, rows: Ints, price: Ints, size: Ints | list[int]
) -> list[tuple[int, Bar]]:
    """Return the one-second bars of `rows` of `trades`, each with its instrument's index.

    Args:
        trades: The trades.
        rows: Indexes of the trades, each id of an instrument at most once.
        price: The rows' prices in their instruments' units.
        size: The rows' sizes in their instruments' units; a list if one exceeds 64 bits.
    """
    bars = (
        pl.DataFrame(
            {
                "instrument": trades.instrument[rows],
                "second": trades.event_time[rows] // MICROS,
                "id": trades.trade_id[rows],
                "price": price,
                "size": pl.Series(size, dtype=_WIDE),
                "buy": trades.taker_buy[rows],
            }
        )
        .sort("instrument", "id")
        .with_columns(quote=pl.col("price").cast(_WIDE) * pl.col("size"))
        .with_columns(
            buy_size=pl.when("buy").then("size").otherwise(_ZERO),
            buy_quote=pl.when("buy").then("quote").otherwise(_ZERO),
        )
        .group_by("instrument", "second")
        .agg(
            pl.col("price").first().alias("open"),
            pl.col("price").max().alias("high"),
            pl.col("price").min().alias("low"),
            pl.col("price").last().alias("close"),
            pl.col("size").sum(),
            pl.col("quote").sum(),
            pl.col("buy_size").sum(),
            pl.col("buy_quote").sum(),
            pl.len(),
            pl.col("id").first().alias("first"),
            pl.col("id").last().alias("last"),
        )
        .sort("instrument", "second")
    )
    return [(row[0], Bar(*row[1:])) for row in bars.iter_rows()]
