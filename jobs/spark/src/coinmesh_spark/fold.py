"""The fold: applies a partition's trades to its state and returns the changes.

Pure: no clock, no I/O. The state after all trades, and so every bar's last revision, depends only
on the trades' order in the partition, not on their division into batches. A partition has all
trades of its instruments, so folds of partitions are independent.

The watermark of an instrument is its newest event time less `disorder`, or its partition's newest
less `idle`, whichever is later: the windows of a silent instrument are closed by other instruments'
trades. A window closes when the watermark reaches its end. A trade whose second ended more than
`horizon` before the watermark is late: it is counted and left to the batch layer, which reads it
from the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark import indicators, normalize
from coinmesh_spark.bars import Bar
from coinmesh_spark.normalize import Normalized
from coinmesh_spark.state import Instrument, Partition, Window
from coinmesh_spark.trades import MICROS, Ints, Trades, second_bars


@dataclass(frozen=True)
class Rules:
    """Parameters of the fold.

    Attributes:
        disorder: How far behind its instrument's newest trade a trade may be before its second is
            closed, in microseconds.
        idle: How far an instrument may lag behind its partition's newest trade before its windows
            are closed, in microseconds.
        horizon: How long after its end a closed window still accepts trades, in microseconds.
        indicator_intervals: Names of the intervals for which indicators are computed.
    """

    disorder: int = 2 * MICROS
    idle: int = 10 * MICROS
    horizon: int = 300 * MICROS
    indicator_intervals: frozenset[str] = frozenset(INTERVALS)


class ChangedBar(NamedTuple):
    """A bar with its current content."""

    instrument: str
    price_exponent: int
    size_exponent: int
    interval: str
    bar: Bar
    final: bool


class ChangedIndicators(NamedTuple):
    """The indicators after a closed bar; `revision` grows whenever they may have changed."""

    instrument: str
    interval: str
    start: int
    values: indicators.Values
    revision: int


@dataclass
class Changes:
    """The changes of a batch.

    Attributes:
        bars: Bars that changed, with their content after the batch.
        indicators: Indicators that changed.
        admitted: Number of trades added to bars.
        duplicates: Number of trades whose id had been seen.
        late: Number of trades that were too late for the stream.
        rejected: Rows that can't be represented in their instrument's units, with the reason.
    """

    bars: list[ChangedBar] = field(default_factory=list)
    indicators: list[ChangedIndicators] = field(default_factory=list)
    admitted: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


def apply(state: Partition, trades: Trades, rules: Rules) -> Changes:
    """Apply `trades` to `state`; they follow the trades that it has seen."""
    normalized = normalize.normalize(state, trades)
    batch = _Batch(state, trades, rules, normalized)
    edges = sorted({0, len(trades), *(step.row for step in normalized.steps)})
    for begin, end in pairwise(edges) if len(trades) else [(0, 0)]:
        for step in normalized.steps:
            if step.row == begin:
                state.open(step.instrument).rescale(step.price_exponent, step.size_exponent)
        batch.run(begin, end)
        if end < len(trades):
            batch.detach()
    return batch.changes


class _Batch:
    def __init__(
        self, state: Partition, trades: Trades, rules: Rules, normalized: Normalized
    ) -> None:
        self._state, self._trades, self._rules = state, trades, rules
        self._normalized = normalized
        self.changes = Changes(rejected=normalized.rejected)
        self._detached = 0

    def run(self, begin: int, end: int) -> None:
        """Apply the trades [begin, end), in which no exponent changes."""
        state, rules = self._state, self._rules
        seconds = self._admit_all(begin, end) if end > begin else {}
        floor = state.newest - rules.idle
        for name in seconds.keys() | set(state.closing_by(floor)):
            instrument = state.open(name)
            watermark = max(instrument.watermark, instrument.newest - rules.disorder, floor)
            self._advance(name, instrument, seconds.get(name, []), watermark)

    def detach(self) -> None:
        """Copy the bars in the changes so far: those of the state are about to change."""
        bars = self.changes.bars
        for at in range(self._detached, len(bars)):
            bars[at] = bars[at]._replace(bar=msgspec.structs.replace(bars[at].bar))
        self._detached = len(bars)

    def _admit_all(self, begin: int, end: int) -> dict[str, list[Bar]]:
        """Return the one-second bars of the new trades, by instrument of all these trades."""
        state, trades, normalized = self._state, self._trades, self._normalized
        newest = np.maximum.accumulate(np.maximum(trades.event_time[begin:end], state.newest))
        state.newest = int(newest[-1])
        admitted: list[Ints] = []
        seconds: dict[str, list[Bar]] = {}
        for code, members in normalize.by_instrument(trades.instrument[begin:end]):
            name = trades.instruments[code]
            rows = members[normalized.kept[begin:end][members]]
            if len(rows):
                seconds[name] = []
                floor = newest[rows] - self._rules.idle
                admitted.append(self._admit(state.open(name), rows + begin, floor))
        if admitted:
            rows, units = np.concatenate(admitted), normalized.units
            self.changes.admitted += len(rows)
            for code, bar in second_bars(trades, rows, units.prices(rows), units.sizes(rows)):
                seconds[trades.instruments[code]].append(bar)
        return seconds

    def _admit(self, instrument: Instrument, rows: Ints, floor: Ints) -> Ints:
        """Return the rows that are new and in time; `floor` is the least watermark at each row."""
        times = self._trades.event_time[rows]
        newest = np.maximum.accumulate(np.maximum(times, instrument.newest))
        watermark = np.maximum(newest - self._rules.disorder, floor)
        instrument.newest = int(newest[-1])
        fresh = instrument.ids.admit(self._trades.trade_id[rows])
        ends = (times // MICROS + 1) * MICROS
        late = fresh & (ends <= watermark - self._rules.horizon)
        duplicates, too_late = len(rows) - int(fresh.sum()), int(late.sum())
        instrument.duplicates += duplicates
        instrument.late += too_late
        self.changes.duplicates += duplicates
        self.changes.late += too_late
        return rows[fresh & ~late]

    def _advance(
        self, name: str, instrument: Instrument, seconds: Iterable[Bar], watermark: int
    ) -> None:
        """Add bars of one second to their windows, then close ended windows."""
        rules, changes = self._rules, self.changes
        exponents = instrument.price_exponent, instrument.size_exponent
        for interval, window in instrument.windows.items():
            length = INTERVALS[interval]
            touched: set[int] = set()
            revised: set[int] = set()
            for second in seconds:
                start = second.start - second.start % length
                closed = (start + length) * MICROS <= instrument.watermark
                (revised if closed else touched).add(start)
                window.add(second, start, closed)
            ended = window.close(watermark // MICROS - length)
            for bars, starts in (
                (window.open, touched.difference(ended)),
                (window.closed if revised or ended else {}, revised.union(ended)),
            ):
                final = bars is not window.open
                changes.bars.extend(
                    ChangedBar(name, *exponents, interval, bars[start], final)
                    for start in sorted(starts)
                )
            has_indicators = interval in rules.indicator_intervals
            if has_indicators and (revised or ended):
                first = min(revised) if revised else ended[0]
                values = _indicators(window, first, instrument.price_exponent, rules.horizon)
                changes.indicators.extend(
                    ChangedIndicators(name, interval, *computed) for computed in values
                )
            if ended:
                window.evict(
                    # Windows that end up to here accept no more trades.
                    settled=(watermark - rules.horizon) // MICROS - length,
                    lookback=indicators.LOOKBACK - 1 if has_indicators else 0,
                    # The oldest bar in a revision of indicators that may still change.
                    counted=(watermark - 2 * rules.horizon) // MICROS - length,
                )
        instrument.watermark = watermark


def _indicators(
    window: Window, first: int, price_exponent: int, horizon: int
) -> Iterator[tuple[int, indicators.Values, int]]:
    """Yield start, values and revision from the closed bar that starts at `first` on.

    The revision is the sum of those of the bars that start within the horizon: only these can
    change once the indicators are published, so it grows with every change, even if a trade adds a
    bar where there was none and removes another from the look-back.
    """
    bars = list(window.closed.values())
    begin = next(at for at, bar in enumerate(bars) if bar.start == first)
    oldest, revision = 0, sum(bar.revision(True) for bar in bars[:begin])
    for at, values in enumerate(indicators.series(bars, price_exponent, begin), begin):
        bar = bars[at]
        revision += bar.revision(True)
        while bars[oldest].start <= bar.start - horizon // MICROS:
            revision -= bars[oldest].revision(True)
            oldest += 1
        if values:
            yield bar.start, values, revision
