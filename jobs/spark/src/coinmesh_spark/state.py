"""The fold's state of one Kafka partition, small enough to be written with every batch.

Per instrument: ids seen, open bars, closed bars that can still change or that indicators need. Its
size depends on the number of instruments, not of trades. An instrument is decoded only if a batch
concerns it; the others stay encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from coinmesh_contracts.serving import INTERVALS
from coinmesh_spark.bars import Bar
from coinmesh_spark.id_set import IdSet
from coinmesh_spark.trades import MICROS

NEVER: Final = 1 << 62
"""A time that no watermark reaches."""

_bars = msgspec.json.Decoder(list[Bar])
_encoder = msgspec.json.Encoder()


class Window:
    """The bars of one interval: open ones, and closed ones in the order of their starts."""

    def __init__(self, open_bars: list[Bar], closed: msgspec.Raw) -> None:
        self.open = {bar.start: bar for bar in open_bars}
        self._stored: msgspec.Raw | None = closed
        self._closed: dict[int, Bar] = {}

    @property
    def closed(self) -> dict[int, Bar]:
        """Return the closed bars by start, oldest first."""
        if self._stored is not None:
            self._closed = {bar.start: bar for bar in _bars.decode(self._stored)}
            self._stored = None
        return self._closed

    def stored(self) -> tuple[list[Bar], msgspec.Raw]:
        """Return the window in its stored form."""
        closed = self._stored
        if closed is None:
            closed = msgspec.Raw(_encoder.encode(list(self._closed.values())))
        return list(self.open.values()), closed

    def add(self, second: Bar, start: int, closed: bool) -> None:
        """Add a bar of one second to the bar that starts at `start`."""
        bars = self.closed if closed else self.open
        bar = bars.get(start)
        if bar is not None:
            bar.add(second)
            return
        behind = closed and bool(bars) and start < next(reversed(bars))
        bars[start] = second.starting(start)
        if behind:
            self._closed = dict(sorted(bars.items()))

    def close(self, last_start: int) -> list[int]:
        """Close the open bars that start at `last_start` or before; return their sorted starts."""
        ended = sorted(start for start in self.open if start <= last_start)
        for start in ended:
            self.closed[start] = self.open.pop(start)
        return ended

    def evict(self, settled: int, lookback: int, counted: int) -> None:
        """Remove closed bars that are no longer needed.

        Args:
            settled: Bars that start up to here no longer change.
            lookback: How many bars before the first unsettled one are still needed.
            counted: Bars that start after this are needed if `lookback` isn't 0.
        """
        starts = list(self.closed)
        unsettled = next((at for at, start in enumerate(starts) if start > settled), len(starts))
        keep = max(unsettled - lookback, 0)
        if lookback:
            keep = next((at for at, s in enumerate(starts[:keep]) if s > counted), keep)
        for start in starts[:keep]:
            del self._closed[start]

    def rescale(self, price_factor: int, size_factor: int) -> None:
        """Express all bars in smaller units."""
        for bars in (self.open, self.closed):
            for bar in bars.values():
                bar.rescale(price_factor, size_factor)


class _Stored(msgspec.Struct, array_like=True):
    """An instrument in its stored form."""

    price_exponent: int
    size_exponent: int
    newest: int
    watermark: int
    duplicates: int
    late: int
    spans: list[tuple[int, int]]
    windows: dict[str, tuple[list[Bar], msgspec.Raw]]
    highest: int = 0


_instruments = msgspec.json.Decoder(_Stored)


class Instrument:
    """One instrument's state.

    Attributes:
        price_exponent: The decimal exponent of all its prices; 0 before the first trade.
        size_exponent: The decimal exponent of its sizes.
        newest: Newest event time, microseconds.
        watermark: Time up to which windows are closed, microseconds.
        duplicates: Trades that had been seen.
        late: Trades that were too late.
        ids: Trade ids seen.
        windows: Bars by interval.
        highest: Highest price of all trades so far, which must fit a finer exponent. 0 in states
            that didn't record it.
    """

    def __init__(self, stored: _Stored) -> None:
        self.price_exponent = stored.price_exponent
        self.size_exponent = stored.size_exponent
        self.newest = stored.newest
        self.watermark = stored.watermark
        self.duplicates = stored.duplicates
        self.late = stored.late
        self.ids = IdSet(stored.spans)
        self.windows = {name: Window(*window) for name, window in stored.windows.items()}
        self.highest = stored.highest

    @classmethod
    def new(cls) -> Instrument:
        """Return an instrument before its first trade."""
        empty = msgspec.Raw(b"[]")
        windows: dict[str, tuple[list[Bar], msgspec.Raw]] = {
            name: ([], empty) for name in INTERVALS
        }
        return cls(_Stored(0, 0, -NEVER, -NEVER, 0, 0, [], windows))

    @classmethod
    def decode(cls, data: bytes) -> Instrument:
        """Decode the result of `encode`."""
        return cls(_instruments.decode(data))

    def encode(self) -> bytes:
        """Encode the state as JSON, which supports integers of any size."""
        return _encoder.encode(
            _Stored(
                self.price_exponent,
                self.size_exponent,
                self.newest,
                self.watermark,
                self.duplicates,
                self.late,
                self.ids.spans,
                {name: window.stored() for name, window in self.windows.items()},
                self.highest,
            )
        )

    @property
    def known(self) -> bool:
        """Return whether it has had a trade."""
        return self.newest > -NEVER

    @property
    def next_close(self) -> int:
        """Return the least watermark that closes one of its windows, microseconds."""
        ends = (
            min(window.open) + INTERVALS[name]
            for name, window in self.windows.items()
            if window.open
        )
        return min(ends, default=NEVER) * MICROS if self.known else NEVER

    def highest_price(self) -> int:
        """Return `highest`, or the highest price of the stored bars if that is greater."""
        held = (
            bar.high
            for window in self.windows.values()
            for bars in (window.open, window.closed)
            for bar in bars.values()
        )
        return max(self.highest, max(held, default=0))

    def rescale(self, price_exponent: int, size_exponent: int) -> None:
        """Express all amounts at finer exponents."""
        price_factor = 10 ** (self.price_exponent - price_exponent)
        size_factor = 10 ** (self.size_exponent - size_exponent)
        for window in self.windows.values():
            window.rescale(price_factor, size_factor)
        self.price_exponent, self.size_exponent = price_exponent, size_exponent


class Entry(NamedTuple):
    """An instrument that isn't decoded."""

    data: bytes
    next_close: int


class Partition:
    """The state of one Kafka partition.

    Attributes:
        newest: Newest event time of all instruments, microseconds.
    """

    def __init__(self, newest: int = -NEVER, entries: dict[str, Entry] | None = None) -> None:
        self.newest = newest
        self._entries: dict[str, Entry] = entries or {}
        self._opened: dict[str, Instrument] = {}

    def open(self, name: str) -> Instrument:
        """Return an instrument's state for modification."""
        instrument = self._opened.get(name)
        if instrument is None:
            entry = self._entries.get(name)
            instrument = Instrument.decode(entry.data) if entry else Instrument.new()
            self._opened[name] = instrument
        return instrument

    @property
    def size(self) -> int:
        """Return the number of instruments."""
        return len(self._entries.keys() | self._opened.keys())

    def closing_by(self, watermark: int) -> list[str]:
        """Return instruments that have a window which ends at `watermark` or before."""
        found = [name for name, opened in self._opened.items() if opened.next_close <= watermark]
        found += [
            name
            for name, entry in self._entries.items()
            if entry.next_close <= watermark and name not in self._opened
        ]
        return found

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield all instruments in their stored form, by name."""
        for name in sorted(self._entries.keys() | self._opened.keys()):
            opened = self._opened.get(name)
            if opened is None:
                yield name, self._entries[name]
            elif opened.known:
                yield name, Entry(opened.encode(), opened.next_close)
