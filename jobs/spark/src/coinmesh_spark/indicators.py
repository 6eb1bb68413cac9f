"""Indicators as pure functions of the last k closed bars, exact until one rounding at the end.

Each value is a fraction of integers, rounded half-even at scale 12, so it doesn't depend on the
computation: sliding along a list of bars gives the same digits as a single window.

- sma: mean of the last n closes.
- ema: e = (c·2 + e·(n - 1)) / (n + 1) over the last 10·n closes, seeded by the first of them.
- vwap: sum of quote volume / sum of volume of the last n bars.
- rsi: 100·G / (G + L), where G and L are Wilder's averages (1/n) of the gains and losses between
  the last 10·n closes, seeded by the first change; 50 if nothing moved.
  Source: J. W. Wilder, New Concepts in Technical Trading Systems, 1978.
- bollinger: middle is the sma, lower and upper are 2 population standard deviations away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from math import isqrt
from operator import mul
from typing import Final, NamedTuple

from coinmesh_contracts.serving import divide_half_even
from coinmesh_spark.bars import Bar

SCALE: Final = 12
"""Decimals of every indicator's value."""
SMA: Final = 20
EMA: Final = 20
VWAP: Final = 20
RSI: Final = 14
BOLLINGER: Final = 20
WARM_UP: Final = 10
"""Look-back of EMA and RSI in periods."""
LOOKBACK: Final = max(SMA, VWAP, BOLLINGER, WARM_UP * EMA, WARM_UP * RSI)
"""Number of closed bars that the longest indicator needs."""


class Output(NamedTuple):
    """One value of one indicator: its name, period, and output ("" if there is only one)."""

    indicator: str
    period: int
    output: str = ""

    @property
    def key(self) -> str:
        """Return its name in the store, e.g. "bollinger/20/upper"."""
        return f"{self.indicator}/{self.period}/{self.output}"


SMA_OUTPUT: Final = Output("sma", SMA)
EMA_OUTPUT: Final = Output("ema", EMA)
VWAP_OUTPUT: Final = Output("vwap", VWAP)
RSI_OUTPUT: Final = Output("rsi", RSI)
LOWER_OUTPUT: Final = Output("bollinger", BOLLINGER, "lower")
MIDDLE_OUTPUT: Final = Output("bollinger", BOLLINGER, "middle")
UPPER_OUTPUT: Final = Output("bollinger", BOLLINGER, "upper")

Values = dict[Output, int]
"""Values in units of 10^-12; only indicators with enough bars are present."""


def series(bars: Sequence[Bar], price_exponent: int, begin: int) -> Iterator[Values]:
    """Yield the indicators after each of `bars[begin:]`; earlier bars are the history.

    Args:
        bars: Closed bars of one interval, oldest first, without omissions.
        price_exponent: Decimal exponent of their prices.
        begin: Index of the first bar to compute.
    """
    closes = [bar.close for bar in bars]
    to_scale = _Scale(price_exponent)
    ema = _Smoothing(EMA - 1, 2, EMA + 1, WARM_UP * EMA).over(closes, begin)
    changes = [after - before for before, after in pairwise(closes)]
    wilder = _Smoothing(RSI - 1, 1, RSI, WARM_UP * RSI - 1)
    gains = wilder.over([max(change, 0) for change in changes], begin - 1)
    losses = wilder.over([max(-change, 0) for change in changes], begin - 1)
    for at in range(begin, len(bars)):
        values: Values = {}
        end = at + 1
        if end >= SMA:
            window = closes[end - SMA : end]
            total = sum(window)
            values[SMA_OUTPUT] = values[MIDDLE_OUTPUT] = to_scale(total, SMA)
            spread = SMA * sum(map(mul, window, window)) - total * total
            values[LOWER_OUTPUT] = to_scale.with_root(total, -1, 4 * spread, SMA)
            values[UPPER_OUTPUT] = to_scale.with_root(total, 1, 4 * spread, SMA)
            traded = bars[end - VWAP : end]
            values[VWAP_OUTPUT] = to_scale(
                sum(bar.quote_volume for bar in traded), sum(bar.volume for bar in traded)
            )
        smoothed, gain, loss = next(ema), next(gains), next(losses)
        if smoothed is not None:
            values[EMA_OUTPUT] = to_scale(*smoothed)
        if gain is not None and loss is not None:
            up, down = gain[0], loss[0]
            values[RSI_OUTPUT] = (
                divide_half_even(up * 100 * 10**SCALE, up + down) if up + down else 50 * 10**SCALE
            )
        yield values


class _Scale:
    """Converts fractions of price units to units of 10^-SCALE, rounded half-even."""

    def __init__(self, price_exponent: int) -> None:
        shift = SCALE + price_exponent
        self._up = 10 ** max(shift, 0)
        self._down = 10 ** max(-shift, 0)

    def __call__(self, numerator: int, denominator: int) -> int:
        return divide_half_even(numerator * self._up, denominator * self._down)

    def with_root(self, whole: int, sign: int, square: int, denominator: int) -> int:
        """Return (whole + sign·√square) / denominator, rounded once though the root is irrational.

        The denominator must be even: then a half is at an integer, and the root's fraction only
        breaks ties.
        """
        square *= self._up * self._up
        root = isqrt(square)
        exact = root * root == square
        denominator *= self._down
        # The true numerator is in [numerator, numerator + 1), and at its lower end if exact.
        numerator = whole * self._up + (root if sign > 0 else -root - (not exact))
        quotient, rest = divmod(numerator, denominator)
        twice = 2 * rest
        if twice > denominator or (twice == denominator and (not exact or quotient & 1)):
            return quotient + 1
        return quotient


Fraction = tuple[int, int]


class _Smoothing:
    """s = (a·s + b·x) / d over `length` values, seeded by the first, without rounding.

    After m = length - 1 steps the sum is
    s·d^m = a^m·x₀ + Σ b·d^(j-1)·a^(m-j)·x_j for j = 1 … m.
    Next window: all but the seed's term loses its first term, is multiplied by a/d, and gains one.
    """

    def __init__(self, a: int, b: int, d: int, length: int) -> None:
        self._a, self._d, self._length = a, d, length
        self._weights = _weights(a, b, d, length)
        self._denominator: int = d ** (length - 1)

    def over(self, values: Sequence[int], begin: int) -> Iterator[Fraction | None]:
        """Yield the sum at `values[begin]` and each after it; None where the window isn't full."""
        weights, a, d, last = self._weights, self._a, self._d, self._length - 1
        tail = 0
        slid_to = -1
        # `begin` is one before the first requested value if values are changes between bars.
        for at in range(begin, len(values)):
            oldest = at - last
            if oldest < 0:
                yield None
                continue
            if slid_to == at - 1:
                tail = (tail - weights[1] * values[oldest]) // d * a + weights[last] * values[at]
            else:
                tail = sum(map(mul, weights[1:], values[oldest + 1 : at + 1]))
            slid_to = at
            yield weights[0] * values[oldest] + tail, self._denominator


@cache
def _weights(a: int, b: int, d: int, length: int) -> tuple[int, ...]:
    last = length - 1
    return (a**last, *(b * d ** (j - 1) * a ** (last - j) for j in range(1, length)))
