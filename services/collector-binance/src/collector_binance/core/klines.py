"""Compare the venue's closed one-minute klines with bars computed from the collected trades.

A kline contains its range of trade ids (f to L), so it is compared once all of them have arrived.
It is not compared if only some of its trades are held, because collection began within the minute
or trades are lost.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from coinmesh_contracts.events.v1.gap_pb2 import GapCause
from coinmesh_sources.gaps import GapLedger
from coinmesh_sources.inputs import Record
from collector_binance.core.messages import Channel, Kline, KlineData
from collector_binance.core.trades import Trades
from collector_binance.core.units import parse

WAIT_NS: Final = 10 * 10**9
"""Time within which the trades of a closed kline must arrive before they count as missing."""

HeldTrade = tuple[str, str, bool, int]
"""Price, size, whether the buyer was the maker, time (µs)."""

KEPT_US: Final = 5 * 60_000_000
"""How long trades are held for a late kline, by their own times."""

KEPT_TRADES: Final = 200_000
"""Maximum number of trades held."""

_TRIM_US: Final = 60_000_000
_CENT: Final = 10**8  # one unit of the kline's q in units of 10^-16


class Klines:
    """Holds the trades since the last closed kline, and the klines that wait for their trades.

    Attributes:
        waiting: Closed klines with missing trades, their time unit and deadline.
    """

    def __init__(self, gaps: GapLedger, trades: Trades) -> None:
        self._gaps, self._trades = gaps, trades
        self._held: dict[int, HeldTrade] = {}
        self._trimmed_at = 0
        self.waiting: deque[tuple[Kline, int, int]] = deque()
        self.last_start = -1
        self.events = 0
        self.duplicates = 0
        self.matches = 0
        self.mismatches = 0

    @property
    def last_id(self) -> int | None:
        """Return the start (µs) of the last closed kline."""
        return self.last_start if self.last_start >= 0 else None

    @property
    def last_time(self) -> int | None:
        """Return the same as `last_id`: a kline's id is its start."""
        return self.last_id

    @property
    def deadline(self) -> int | None:
        """Return the time (ns) at which the trades of the oldest waiting kline count as missing."""
        return self.waiting[0][2] if self.waiting else None

    def on_kline(self, data: KlineData, scale: int, receive_ns: int, out: list[Record]) -> None:
        """Process a kline from the stream; ignore it unless it is closed."""
        kline = data.kline
        if kline.interval != "1m":
            raise ValueError(f"a kline of {kline.interval} on the stream of 1m")
        if self._trades.listener is None:
            self._trades.listener = self._hold
        if not kline.closed:
            return
        start = kline.start_time * scale
        if start <= self.last_start:
            self.duplicates += 1
            return
        self.last_start = start
        self.events += 1
        self.waiting.append((kline, scale, receive_ns + WAIT_NS))
        self.settle(receive_ns, out)

    def settle(self, receive_ns: int, out: list[Record]) -> None:
        """Compare the klines whose trades have all arrived."""
        while self.waiting:
            kline, scale, _ = self.waiting[0]
            first, last = kline.first_trade_id, kline.last_trade_id
            if kline.trade_count and self._awaits(first, last):
                return
            self.waiting.popleft()
            if kline.trade_count and all(each in self._held for each in range(first, last + 1)):
                self._compare(kline, scale, receive_ns, out)
            for each in [number for number in self._held if number <= last]:
                del self._held[each]

    def on_tick(self, now_ns: int, out: list[Record]) -> None:
        """Open a gap for trades of a kline that have not arrived in time."""
        deadline = self.deadline
        if deadline is None or now_ns < deadline:
            return
        kline, scale, _ = self.waiting[0]
        last_id = self._trades.last_id
        whole = kline.last_trade_id - kline.first_trade_id + 1 == kline.trade_count
        if whole and last_id is not None and last_id < kline.last_trade_id:
            self._trades.open_gap(kline.last_trade_id, kline.end_time * scale, now_ns, out)
        self.waiting[0] = (kline, scale, now_ns + 6 * WAIT_NS)
        self.settle(now_ns, out)

    def _awaits(self, first: int, last: int) -> bool:
        last_id = self._trades.last_id
        if last_id is None or (first not in self._held and not self._is_open(first)):
            return False  # the bar began before collection did, or its first trades are lost
        return last_id < last or any(
            gap.first <= last and first <= gap.last for gap in self._trades.open_gaps
        )

    def _is_open(self, number: int) -> bool:
        return any(gap.first <= number <= gap.last for gap in self._trades.open_gaps)

    def _hold(self, number: int, price: str, size: str, is_maker: bool, time: int) -> None:
        self._held[number] = (price, size, is_maker, time)
        if time - self._trimmed_at >= _TRIM_US or len(self._held) > KEPT_TRADES:
            # In batches: repeatedly removing the first key of a dict rescans the removed entries.
            self._trimmed_at = time
            kept = [each for each in self._held.items() if each[1][3] > time - KEPT_US]
            self._held = dict(kept[-KEPT_TRADES // 2 :])

    def _compare(self, kline: Kline, scale: int, receive_ns: int, out: list[Record]) -> None:
        start = kline.start_time * scale
        end = start + 60_000_000
        held = [self._held[each] for each in range(kline.first_trade_id, kline.last_trade_id + 1)]
        inside = [trade for trade in held if start <= trade[3] < end]
        ours = _bar(inside)
        theirs = {
            "o": parse(kline.open),
            "h": parse(kline.high),
            "l": parse(kline.low),
            "c": parse(kline.close),
            "v": parse(kline.volume),
            "n": kline.trade_count,
            "q": parse(kline.quote_volume) * _CENT,
            "V": parse(kline.taker_buy_volume),
        }
        # The venue keeps 8 decimals of each trade's value, so values with more differ by rounding.
        slack = len(inside) * _CENT if ours["inexact"] else 0
        wrong = [
            f"{name}: ours {ours[name]}, the venue's {value}"
            for name, value in theirs.items()
            if abs(ours[name] - value) > (slack if name == "q" else 0)
        ]
        if not wrong:
            self.matches += 1
            return
        self.mismatches += 1
        detail = "in units of 1e-8 (q: 1e-16): " + "; ".join(wrong)
        cause = GapCause.GAP_CAUSE_KLINE_MISMATCH
        self._gaps.note(
            Channel.KLINE.value,
            (start, end),
            receive_ns,
            out,
            cause=cause,
            detail=detail,
            times=(start, end),
        )


def _bar(trades: list[HeldTrade]) -> dict[str, int]:
    """Return the bar of trades in their order, keyed by the kline's field letters."""
    prices = [parse(price) for price, _, _, _ in trades]
    sizes = [parse(size) for _, size, _, _ in trades]
    values = [price * size for price, size in zip(prices, sizes, strict=True)]
    taken = [size for trade, size in zip(trades, sizes, strict=True) if not trade[2]]
    return {
        "o": prices[0] if prices else 0,
        "h": max(prices, default=0),
        "l": min(prices, default=0),
        "c": prices[-1] if prices else 0,
        "v": sum(sizes),
        "n": len(trades),
        "q": sum(values),
        "V": sum(taken),
        "inexact": int(any(value % _CENT for value in values)),
    }
