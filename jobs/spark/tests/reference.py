"""What bars and indicators must be, by Decimal alone; imports nothing of ours."""

from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from itertools import pairwise

INTERVALS = {"1s": 1, "1m": 60, "5m": 300, "1h": 3600, "1d": 86400}


def to_decimal(units, exponent):
    """The exact value of a pair (units, exponent), whatever the context's precision."""
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), exponent))


def _round(value, scale):
    return value.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_EVEN)


def bars(trades, watermark=None):
    """Bars by (interval, start) of trades {id: (time µs, price, size, taker_buy)}, as Decimals.

    Each has its exact sums, `final` by the watermark (µs), and its revision.
    """
    with localcontext() as context:
        context.prec = 100
        groups = defaultdict(list)
        for trade_id, trade in trades.items():
            second = trade[0] // 1_000_000
            for name, length in INTERVALS.items():
                groups[name, second - second % length].append((trade_id, *trade))
        return {
            key: _bar(sorted(group), watermark is not None and _ends(key) <= watermark)
            for key, group in groups.items()
        }


def _ends(key):
    return (key[1] + INTERVALS[key[0]]) * 1_000_000


def _bar(rows, final):
    prices = [price for _, _, price, _, _ in rows]
    volume = sum(size for _, _, _, size, _ in rows)
    quote = sum(price * size for _, _, price, size, _ in rows)
    digits = -prices[0].as_tuple().exponent
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": volume,
        "quote_volume": quote,
        "vwap": _round(quote / volume, digits + 8),
        "taker_buy_volume": sum((s for _, _, _, s, buy in rows if buy), 0 * rows[0][3]),
        "taker_buy_quote_volume": sum(
            (p * s for _, _, p, s, buy in rows if buy), 0 * rows[0][2] * rows[0][3]
        ),
        "trade_count": len(rows),
        "first_trade_id": rows[0][0],
        "last_trade_id": rows[-1][0],
        "final": final,
        "revision": 2 * len(rows) + final,
    }


def indicators(all_bars, interval):
    """Indicators by (start, name) after each final bar of an interval of one instrument."""
    closed = sorted(
        (start, bar) for (name, start), bar in all_bars.items() if name == interval and bar["final"]
    )
    with localcontext() as context:
        context.prec = 100
        out = {}
        for end in range(1, len(closed) + 1):
            window = [bar for _, bar in closed[max(0, end - 200) : end]]
            for name, value in _values(window).items():
                out[closed[end - 1][0], name] = _round(value, 12)
        return out


def indicator_revisions(all_bars, interval, horizon=300):
    """Revision by start: what the final bars of the horizon that ends with it add up to."""
    closed = {
        start: bar["revision"]
        for (name, start), bar in all_bars.items()
        if name == interval and bar["final"]
    }
    return {
        start: sum(r for s, r in closed.items() if start - horizon < s <= start) for start in closed
    }


def _values(window):
    closes = [bar["close"] for bar in window]
    out = {}
    if len(closes) >= 20:
        last = closes[-20:]
        mean = sum(last) / 20
        deviation = (sum((c - mean) ** 2 for c in last) / 20).sqrt()
        out["sma/20/"] = out["bollinger/20/middle"] = mean
        out["bollinger/20/lower"] = mean - 2 * deviation
        out["bollinger/20/upper"] = mean + 2 * deviation
        out["vwap/20/"] = sum(b["quote_volume"] for b in window[-20:]) / sum(
            b["volume"] for b in window[-20:]
        )
    if len(closes) >= 200:
        ema = closes[-200]
        for close in closes[-199:]:
            ema += (close - ema) * 2 / 21
        out["ema/20/"] = ema
    if len(closes) >= 140:
        recent = closes[-140:]
        changes = [b - a for a, b in pairwise(recent)]
        gain, loss = max(changes[0], Decimal(0)), max(-changes[0], Decimal(0))
        for change in changes[1:]:
            gain = (gain * 13 + max(change, Decimal(0))) / 14
            loss = (loss * 13 + max(-change, Decimal(0))) / 14
        out["rsi/14/"] = 100 * gain / (gain + loss) if gain + loss else Decimal(50)
    return out


def classify(records, disorder=2, idle=10, horizon=300):
    """Which of a partition's trades count: (admitted, duplicates, late) and the last watermarks.

    Records are (instrument, id, time µs, …) in the order of the partition. An admitted trade is the
    first of its id that did not come `horizon` seconds after its second was closed.
    """
    newest, seen = {}, set()
    newest_of_all = 0
    admitted, duplicates, late = [], [], []

    def watermark(instrument):
        return max(newest[instrument] - disorder * 1_000_000, newest_of_all - idle * 1_000_000)

    for record in records:
        instrument, trade_id, time = record[:3]
        newest[instrument] = max(newest.get(instrument, 0), time)
        newest_of_all = max(newest_of_all, time)
        if (instrument, trade_id) in seen:
            duplicates.append(record)
            continue
        seen.add((instrument, trade_id))
        second_ends = (time // 1_000_000 + 1) * 1_000_000
        if second_ends <= watermark(instrument) - horizon * 1_000_000:
            late.append(record)
        else:
            admitted.append(record)
    return admitted, duplicates, late, {name: watermark(name) for name in newest}
