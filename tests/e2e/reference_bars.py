"""Bars of a capture, computed in the plainest way: an independent check of the whole mesh.

It uses only json, decimal and gzip, and imports nothing of Coinmesh. As a script it prints the
bars of a capture as JSON: `python reference_bars.py CAPTURE SECONDS`.
"""

import gzip
import json
import sys
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Context, Decimal

EXACT = Context(prec=200)
PRICE_STEP = SIZE_STEP = Decimal("1e-8")
QUOTE_STEP = VWAP_STEP = Decimal("1e-16")


def trades_of(path):
    """Trades of a capture by symbol: (id, time in µs, price, size), each once, by id."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    found = defaultdict(dict)
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line.split(" ", 1)[1])
            data = message.get("data", message)
            if data.get("e") == "trade":
                scale = 1 if data["T"] > 10**14 else 1000
                row = (data["t"], data["T"] * scale, Decimal(data["p"]), Decimal(data["q"]))
                found[data["s"]][data["t"]] = row
    return {symbol: [rows[key] for key in sorted(rows)] for symbol, rows in found.items()}


def text(value, step):
    """A decimal in plain notation with all its places."""
    return format(value.quantize(step, rounding=ROUND_HALF_EVEN, context=EXACT), "f")


def bars_of(trades, seconds):
    """Bars of one symbol's trades by start of window (s), the figures as the API prints them."""
    windows = defaultdict(list)
    for trade in trades:
        windows[trade[1] // 1_000_000 // seconds * seconds].append(trade)
    bars = {}
    for start, inside in sorted(windows.items()):
        prices = [price for _, _, price, _ in inside]
        volume = quote = Decimal(0)
        for _, _, price, size in inside:
            volume = EXACT.add(volume, size)
            quote = EXACT.add(quote, EXACT.multiply(price, size))
        bars[start] = {
            "open": text(prices[0], PRICE_STEP),
            "high": text(max(prices), PRICE_STEP),
            "low": text(min(prices), PRICE_STEP),
            "close": text(prices[-1], PRICE_STEP),
            "volume": text(volume, SIZE_STEP),
            "quoteVolume": text(quote, QUOTE_STEP),
            "vwap": text(EXACT.divide(quote, volume), VWAP_STEP),
            "tradeCount": len(inside),
        }
    return bars


if __name__ == "__main__":
    result = {s: bars_of(t, int(sys.argv[2])) for s, t in trades_of(sys.argv[1]).items()}
    json.dump(result, sys.stdout, indent=1)
