"""For tests: a small model of the exchange, its frames, and both cores side by side."""

import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input, Record
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.compiled import load
from collector_binance.core.encode import Headers
from collector_binance.core.engine import Engine

Records = TypeVar("Records", list[Record], list[Record] | None)

SYMBOL = "BTCUSDT"
BEGIN_MS = 1_723_161_600_000
BEGIN_NS = BEGIN_MS * 1_000_000


def text(units: int) -> str:
    """Return units of 1e-8 in the exchange's text format."""
    return f"{units // 10**8}.{units % 10**8:08d}"


def combined(stream: str, data: dict[str, Any], symbol: str = SYMBOL) -> bytes:
    """Return a frame in the combined envelope."""
    envelope = {"stream": f"{symbol.lower()}@{stream}", "data": data}
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()


def trade(number: int, price: int = 100 * 10**8, size: int = 10**8, **changes: Any) -> bytes:
    """Return a trade frame; prices and sizes are in units of 1e-8."""
    data: dict[str, Any] = {
        "e": "trade",
        "E": BEGIN_MS + number,
        "s": SYMBOL,
        "t": number,
        "p": text(price),
        "q": text(size),
        "T": BEGIN_MS + number,
        "m": number % 2 == 0,
        "M": True,
    }
    data |= changes
    return combined("trade", data, data["s"])


def past_trade(number: int, price: int = 100 * 10**8, size: int = 10**8) -> dict[str, Any]:
    """Return an element of historicalTrades, in microseconds."""
    return {
        "id": number,
        "price": text(price),
        "qty": text(size),
        "quoteQty": text(price * size // 10**8),
        "time": (BEGIN_MS + number) * 1000,
        "isBuyerMaker": number % 2 == 0,
        "isBestMatch": True,
    }


@dataclass
class Book:
    """A model order book and the frames of its changes."""

    symbol: str = SYMBOL
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    update_id: int = 1000

    def change(self, changes: list[tuple[bool, int, int]], ids: int = 1) -> bytes:
        """Set levels (is bid, price, size) and return the depth frame of the change."""
        first = self.update_id + 1
        self.update_id += ids
        bids: list[list[str]] = []
        asks: list[list[str]] = []
        for is_bid, price, size in changes:
            side, told = (self.bids, bids) if is_bid else (self.asks, asks)
            if size:
                side[price] = size
            else:
                side.pop(price, None)
            told.append([text(price), text(size)])
        data = {
            "e": "depthUpdate",
            "E": BEGIN_MS + self.update_id,
            "s": self.symbol,
            "U": first,
            "u": self.update_id,
            "b": bids,
            "a": asks,
        }
        return combined("depth@100ms", data, self.symbol)

    def snapshot(self) -> bytes:
        """Return the current REST depth response."""
        bids = [[text(p), text(s)] for p, s in sorted(self.bids.items(), reverse=True)]
        asks = [[text(p), text(s)] for p, s in sorted(self.asks.items())]
        body = {"lastUpdateId": self.update_id, "bids": bids, "asks": asks}
        return json.dumps(body, separators=(",", ":")).encode()

    def quote(self) -> bytes:
        """Return the current bookTicker frame."""
        bid, ask = max(self.bids, default=0), min(self.asks, default=0)
        data = {
            "u": self.update_id,
            "s": self.symbol,
            "b": text(bid),
            "B": text(self.bids.get(bid, 0)),
            "a": text(ask),
            "A": text(self.asks.get(ask, 0)),
        }
        return combined("bookTicker", data, self.symbol)


class Twins(Engine):
    """Runs the Python core and the compiled core on the same inputs and compares them.

    After each input their events, byte for byte, commands and states are compared.
    """

    def __init__(self, headers: Headers, *, fast: None = None) -> None:
        super().__init__(headers, fast=fast)
        self.twin = self._twin(headers)
        self.process = self._process

    def _twin(self, headers: Headers) -> Engine:
        return Engine(headers, fast=load())

    def apply(self, given: Input) -> list[Record]:
        """Process an input in both cores and return the events."""
        if given.kind == FrameKind.FRAME_KIND_MESSAGE:
            return self.process(given.payload, given.receive_ns, given.connection)
        if given.kind == FrameKind.FRAME_KIND_TICK:
            return self.tick(given.receive_ns) or []
        known = len(self.commands)
        return self._equal(super().apply(given), self.twin.apply(given), known)

    def tick(self, now_ns: int) -> list[Record] | None:
        """Process expired deadlines in both cores and return the events."""
        known = len(self.commands)
        return self._equal(super().tick(now_ns), self.twin.tick(now_ns), known)

    def _process(self, frame: bytes, receive_ns: int, connection: str) -> list[Record]:
        known = len(self.commands)
        ours = self.process_any(frame, receive_ns, connection)
        return self._equal(ours, self.twin.process(frame, receive_ns, connection), known)

    def _equal(self, ours: Records, theirs: Records, known: int) -> Records:
        assert theirs == ours
        assert self.twin.commands == self.commands[known:]
        self.twin.commands.clear()
        assert state(self.twin) == state(self)
        return ours


class CaptureTwins(Twins, CaptureEngine):
    """As `Twins`, for captures: streams without a subscription are accepted."""

    def _twin(self, headers: Headers) -> Engine:
        return CaptureEngine(headers, fast=load())


def state(engine: Engine) -> list[Any]:
    """Return the complete state of an engine's markets and links, for comparison."""
    links = [(link.name, link.messages, list(link.routes)) for link in engine.links.values()]
    found: list[Any] = [engine.sequence, engine.counters, links]
    for market in engine.markets.values():
        trades, quotes, book = market.trades, market.quotes, market.book
        audit = book.audit
        found += [
            (trades.last_id, trades.last_time, trades.events, trades.duplicates, trades.suspect),
            (quotes.last_id, quotes.events, quotes.duplicates),
            (book.last_id, book.last_time, book.events, book.duplicates, book.suspect),
            (book.state, book.top, book.bids.levels, book.asks.levels, book.near_prices()),
            (audit.matches, audit.differences, audit.last_match, audit.detail),
            (market.klines.matches, market.klines.mismatches, market.deadline),
        ]
    return found
