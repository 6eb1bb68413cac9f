"""For tests: a small model of the exchange, and frames as it sends them."""

import json
from dataclasses import dataclass, field
from typing import Any

SYMBOL = "BTCUSDT"
BEGIN_MS = 1_723_161_600_000
BEGIN_NS = BEGIN_MS * 1_000_000


def text(units: int) -> str:
    """Units of 1e-8 as the exchange prints them."""
    return f"{units // 10**8}.{units % 10**8:08d}"


def combined(stream: str, data: dict[str, Any], symbol: str = SYMBOL) -> bytes:
    """A frame in the combined envelope."""
    envelope = {"stream": f"{symbol.lower()}@{stream}", "data": data}
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()


def trade(number: int, price: int = 100 * 10**8, size: int = 10**8, **changes: Any) -> bytes:
    """A trade frame; prices and sizes are in units of 1e-8."""
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
    """An element of historicalTrades, in microseconds."""
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
    """A real book and the frames that tell of its changes."""

    symbol: str = SYMBOL
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    update_id: int = 1000

    def change(self, changes: list[tuple[bool, int, int]], ids: int = 1) -> bytes:
        """Set levels (is bid, price, size); the depth frame that tells of it."""
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
        """REST depth of now."""
        bids = [[text(p), text(s)] for p, s in sorted(self.bids.items(), reverse=True)]
        asks = [[text(p), text(s)] for p, s in sorted(self.asks.items())]
        body = {"lastUpdateId": self.update_id, "bids": bids, "asks": asks}
        return json.dumps(body, separators=(",", ":")).encode()

    def quote(self) -> bytes:
        """bookTicker of now."""
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
