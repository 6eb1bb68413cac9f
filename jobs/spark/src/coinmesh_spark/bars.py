"""Bars: windows of trades with exact sums.

All amounts are whole units of a power of ten. Sums are Python integers: a day of a cheap coin's
volume doesn't fit 64 bits.
"""

from __future__ import annotations

import msgspec

from coinmesh_contracts.serving import VWAP_EXTRA_DIGITS, divide_half_even


class Bar(msgspec.Struct, array_like=True, gc=False):
    """The trades of one window.

    Attributes:
        start: Start of the window, seconds since the Unix epoch.
        open: Price of the trade with the lowest id.
        high: Highest price.
        low: Lowest price.
        close: Price of the trade with the highest id.
        volume: Sum of sizes.
        quote_volume: Sum of price times size.
        taker_buy_volume: The part of `volume` in which the buyer took liquidity.
        taker_buy_quote_volume: The part of `quote_volume` in which the buyer took liquidity.
        trades: Number of trades.
        first_id: Lowest trade id.
        last_id: Highest trade id.
    """

    start: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    taker_buy_volume: int
    taker_buy_quote_volume: int
    trades: int
    first_id: int
    last_id: int

    def add(self, other: Bar) -> None:
        """Add the trades of `other`, none of which may be in this bar."""
        if other.first_id < self.first_id:
            self.first_id, self.open = other.first_id, other.open
        if other.last_id > self.last_id:
            self.last_id, self.close = other.last_id, other.close
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        self.volume += other.volume
        self.quote_volume += other.quote_volume
        self.taker_buy_volume += other.taker_buy_volume
        self.taker_buy_quote_volume += other.taker_buy_quote_volume
        self.trades += other.trades

    def starting(self, start: int) -> Bar:
        """Return a copy as the bar of another window."""
        return msgspec.structs.replace(self, start=start)

    def rescale(self, price_factor: int, size_factor: int) -> None:
        """Express the same amounts in units that are smaller by the given factors."""
        both = price_factor * size_factor
        self.open *= price_factor
        self.high *= price_factor
        self.low *= price_factor
        self.close *= price_factor
        self.volume *= size_factor
        self.taker_buy_volume *= size_factor
        self.quote_volume *= both
        self.taker_buy_quote_volume *= both

    def revision(self, final: bool) -> int:
        """Return a number that grows exactly if the bar's content changes."""
        return 2 * self.trades + final

    def vwap(self) -> int:
        """Return quote volume / volume in units of 10^(price exponent - 8), rounded half-even."""
        return divide_half_even(self.quote_volume * 10**VWAP_EXTRA_DIGITS, self.volume)
