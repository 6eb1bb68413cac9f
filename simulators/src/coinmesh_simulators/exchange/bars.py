"""Klines: exact sums over trades, for every interval of the venue."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from coinmesh_simulators.exchange.amounts import quote_amount, quote_text, to_text

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
_MONDAY = 4 * DAY  # 1970-01-05, the first Monday of the epoch

INTERVALS: dict[str, int] = {
    "1s": SECOND,
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": HOUR,
    "2h": 2 * HOUR,
    "4h": 4 * HOUR,
    "6h": 6 * HOUR,
    "8h": 8 * HOUR,
    "12h": 12 * HOUR,
    "1d": DAY,
    "3d": 3 * DAY,
    "1w": 7 * DAY,
    "1M": 0,
}


def window(interval: str, at: int, zone: int = 0) -> tuple[int, int]:
    """Return start and end (exclusive) in µs of the interval's window that contains `at` (µs).

    `zone` is the windows' offset from UTC, in µs.
    """
    if zone:
        start, end = window(interval, at + zone)
        return start - zone, end - zone
    length = INTERVALS[interval]
    if interval == "1M":
        month = datetime.fromtimestamp(at // SECOND, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        year, following = divmod(month.year * 12 + month.month, 12)
        end = month.replace(year=year, month=following + 1)
        return int(month.timestamp()) * SECOND, int(end.timestamp()) * SECOND
    origin = _MONDAY if interval == "1w" else 0
    start = at - (at - origin) % length
    return start, start + length


@dataclass(slots=True)
class Bar:
    """One kline. Times are µs; prices and volumes 10^-8 units; quote volumes 10^-16 units."""

    start: int
    end: int
    open: int = 0
    high: int = 0
    low: int = 0
    close: int = 0
    volume: int = 0
    quote: int = 0
    trades: int = 0
    taker_volume: int = 0
    taker_quote: int = 0
    first_trade: int = -1
    last_trade: int = -1

    @classmethod
    def flat(cls, start: int, end: int, price: int) -> "Bar":
        """Return the bar of a window without trades: all prices are the last close."""
        return cls(start, end, price, price, price, price)

    def add(self, trade_id: int, price: int, quantity: int, buyer_is_maker: bool) -> None:
        """Add one trade; trades arrive in id order."""
        if self.trades:
            self.high = max(self.high, price)
            self.low = min(self.low, price)
        else:
            self.open = self.high = self.low = price
            self.first_trade = trade_id
        self.close = price
        self.last_trade = trade_id
        self.trades += 1
        self.volume += quantity
        amount = quote_amount(price, quantity)
        self.quote += amount
        if not buyer_is_maker:
            self.taker_volume += quantity
            self.taker_quote += amount

    def extended(self, later: "Bar") -> "Bar":
        """Return this bar combined with a later one of the same window."""
        if not later.trades:
            return replace(self)
        if not self.trades:
            return replace(later, start=self.start, end=self.end)
        return Bar(
            self.start,
            self.end,
            self.open,
            max(self.high, later.high),
            min(self.low, later.low),
            later.close,
            self.volume + later.volume,
            self.quote + later.quote,
            self.trades + later.trades,
            self.taker_volume + later.taker_volume,
            self.taker_quote + later.taker_quote,
            self.first_trade,
            later.last_trade,
        )

    def row(self, per_unit: int) -> list[object]:
        """Return the element of `GET /api/v3/klines`; `per_unit` is µs per unit (1000: ms)."""
        return [
            self.start // per_unit,
            to_text(self.open),
            to_text(self.high),
            to_text(self.low),
            to_text(self.close),
            to_text(self.volume),
            (self.end - 1) // per_unit,
            quote_text(self.quote),
            self.trades,
            to_text(self.taker_volume),
            quote_text(self.taker_quote),
            "0",
        ]

    def event(self, symbol: str, interval: str, closed: bool, at: int, per_unit: int) -> bytes:
        """Return the payload of a `<symbol>@kline_<interval>` event published at `at` (µs)."""
        return (
            f'{{"e":"kline","E":{at // per_unit},"s":"{symbol}","k":{{'
            f'"t":{self.start // per_unit},"T":{(self.end - 1) // per_unit},"s":"{symbol}",'
            f'"i":"{interval}","f":{self.first_trade},"L":{self.last_trade},'
            f'"o":"{to_text(self.open)}","c":"{to_text(self.close)}",'
            f'"h":"{to_text(self.high)}","l":"{to_text(self.low)}","v":"{to_text(self.volume)}",'
            f'"n":{self.trades},"x":{"true" if closed else "false"},'
            f'"q":"{quote_text(self.quote)}","V":"{to_text(self.taker_volume)}",'
            f'"Q":"{quote_text(self.taker_quote)}","B":"0"}}}}'
        ).encode()
