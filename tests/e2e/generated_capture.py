"""Makes a capture in the recorded format: several symbols whose books and trades agree.

Frames are `<receive ns> <combined-stream message>`, with a REST depth snapshot inline for each
symbol. Like the recorded one, it imports nothing of Coinmesh.
"""

import gzip
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

SECOND = 1_000_000_000
TENTH = SECOND // 10
LATENCY = 3_000_000
LEVELS = 60


@dataclass
class Symbol:
    """A symbol with its scale: `tick` and `lot` are the steps of price and size, in 10^-8 units."""

    name: str
    price: int
    tick: int
    lot: int
    largest: int
    rate: float
    trade_id: int
    update_id: int
    book: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))
    changed: tuple[dict[int, int], dict[int, int]] = field(default_factory=lambda: ({}, {}))
    sent_id: int = 0
    top: tuple[str, ...] = ()


# A major one, a cheap one with huge sizes, one with few trades and letters beyond ASCII.
SYMBOLS = (
    ("ETHUSDT", 260_012_000_000, 1_000_000, 10_000, 500_000_000, 40.0, 1_500_000_000, 9 * 10**10),
    ("CHEAPUSDT", 1_234, 1, 100_000_000, 85 * 10**17, 6.0, 77, 10**6),
    ("币安人生USDT", 12_345_000, 1_000, 10_000_000, 10**12, 0.5, 5, 12_345),
)


def text(units: int) -> str:
    """Units of 10^-8 as the venue prints them."""
    return f"{units // 10**8}.{units % 10**8:08d}"


class Recorder:
    """Runs the symbols' markets and writes what a subscriber would have received."""

    def __init__(self, path: Path, start_ns: int, seed: int) -> None:
        self._path, self._now, self._random = path, start_ns, random.Random(seed)
        self._lines: list[str] = []
        self._symbols = [
            Symbol(name, price, tick, lot, largest, rate, trade, update)
            for name, price, tick, lot, largest, rate, trade, update in SYMBOLS
        ]

    def record(self, seconds: float) -> None:
        """Writes a capture of so many seconds."""
        for symbol in self._symbols:
            self._open(symbol)
        end = self._now + int(seconds * SECOND)
        tenths = 0
        while self._now < end:
            self._now += self._random.randrange(1, SECOND // 100)
            for symbol in self._symbols:
                if self._random.random() < symbol.rate / 200:
                    self._trade(symbol)
                elif self._random.random() < 0.1:
                    self._change(symbol, self._random.randrange(2))
            if self._now // TENTH > tenths:
                tenths = self._now // TENTH
                for symbol in self._symbols:
                    self._depth(symbol)
        # No line before this one is without its book.
        for symbol in self._symbols:
            self._depth(symbol)
        with gzip.open(self._path, "wt", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self._lines)

    def _open(self, symbol: Symbol) -> None:
        for level in range(LEVELS):
            for side, sign in ((0, -1), (1, 1)):
                price = symbol.price + sign * (level + 1) * symbol.tick
                symbol.book[side][price] = self._size(symbol)
        symbol.sent_id = symbol.update_id
        # A depth event before the snapshot: the stream is opened before the book is asked for.
        self._change(symbol, 0)
        self._depth(symbol)
        levels = [
            [[text(price), text(size)] for price, size in sorted(side.items(), reverse=not index)]
            for index, side in enumerate(symbol.book)
        ]
        snapshot = {"lastUpdateId": symbol.update_id, "bids": levels[0], "asks": levels[1]}
        self._line(json.dumps(snapshot, separators=(",", ":")))
        self._quote(symbol)

    def _size(self, symbol: Symbol) -> int:
        # Most orders are small, some as large as the symbol allows.
        size = int(symbol.largest ** self._random.uniform(0.55, 1.0))
        return max(symbol.lot, size // symbol.lot * symbol.lot)

    def _set(self, symbol: Symbol, side: int, price: int, size: int) -> None:
        symbol.update_id += 1
        symbol.changed[side][price] = size
        if size:
            symbol.book[side][price] = size
        else:
            symbol.book[side].pop(price, None)
        self._quote(symbol)

    def _change(self, symbol: Symbol, side: int) -> None:
        book, other = symbol.book[side], symbol.book[1 - side]
        best, opposite = self._best(book, side), self._best(other, 1 - side)
        sign = 1 if side else -1
        draw = self._random.random()
        if draw < 0.2 and abs(opposite - best) > symbol.tick:
            self._set(symbol, side, best - sign * symbol.tick, self._size(symbol))
        elif draw < 0.3 and len(book) > LEVELS // 2:
            self._set(symbol, side, self._random.choice(list(book)), 0)
        else:
            price = best + sign * self._random.randrange(LEVELS) * symbol.tick
            if price > 0:
                self._set(symbol, side, price, self._size(symbol))

    def _trade(self, symbol: Symbol) -> None:
        side = self._random.randrange(2)
        price = self._best(symbol.book[side], side)
        resting = symbol.book[side][price]
        size = min(resting, self._size(symbol))
        symbol.trade_id += 1
        milliseconds = self._now // 1_000_000
        trade = {
            "e": "trade", "E": milliseconds, "s": symbol.name, "t": symbol.trade_id,
            "p": text(price), "q": text(size), "T": milliseconds - self._random.randrange(2),
            "m": side == 0, "M": True,
        }  # fmt: skip
        self._stream(symbol, "trade", trade)
        if len(symbol.book[side]) < LEVELS // 2:
            self._change(symbol, side)
        self._set(symbol, side, price, resting - size)

    def _best(self, book: dict[int, int], side: int) -> int:
        return min(book) if side else max(book)

    def _quote(self, symbol: Symbol) -> None:
        bid, ask = (self._best(book, side) for side, book in enumerate(symbol.book))
        top = (text(bid), text(symbol.book[0][bid]), text(ask), text(symbol.book[1][ask]))
        if top != symbol.top:
            symbol.top = top
            quote = {"u": symbol.update_id, "s": symbol.name}
            self._stream(symbol, "bookTicker", {**quote, **dict(zip("bBaA", top, strict=True))})

    def _depth(self, symbol: Symbol) -> None:
        if symbol.update_id == symbol.sent_id:
            return
        sides = [[[text(p), text(s)] for p, s in side.items()] for side in symbol.changed]
        depth = {
            "e": "depthUpdate", "E": self._now // 1_000_000, "s": symbol.name,
            "U": symbol.sent_id + 1, "u": symbol.update_id, "b": sides[0], "a": sides[1],
        }  # fmt: skip
        self._stream(symbol, "depth@100ms", depth)
        symbol.sent_id = symbol.update_id
        for side in symbol.changed:
            side.clear()

    def _stream(self, symbol: Symbol, kind: str, data: dict[str, object]) -> None:
        stream = f"{symbol.name.lower()}@{kind}"
        message = {"stream": stream, "data": data}
        self._line(json.dumps(message, separators=(",", ":"), ensure_ascii=False))

    def _line(self, message: str) -> None:
        self._lines.append(f"{self._now + LATENCY} {message}")
        self._now += self._random.randrange(1_000, 50_000)


def make_capture(path: Path, *, start_ns: int, seconds: float, seed: int) -> None:
    """Writes a capture; the same arguments give the same frames."""
    Recorder(path, start_ns, seed).record(seconds)
