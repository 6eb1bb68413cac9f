"""The live klines of one symbol: the open second and minute, and all longer intervals."""

from functools import partial

from coinmesh_simulators.exchange.amounts import quote_text, to_text
from coinmesh_simulators.exchange.bars import DAY, INTERVALS, MINUTE, SECOND, Bar, window
from coinmesh_simulators.exchange.hub import Hub
from coinmesh_simulators.exchange.instruments import Instrument
from coinmesh_simulators.exchange.store import MOST, Store, TradeRow


class Klines:
    """Bars of one symbol. Times are µs of the exchange's clock."""

    def __init__(
        self, key: int, instrument: Instrument, hub: Hub, store: Store, last_price: int
    ) -> None:
        self._key = key
        self._symbol = instrument.symbol
        self._prefix = instrument.stream + "@kline_"
        self._ticker = instrument.stream + "@miniTicker"
        self._hub = hub
        self._store = store
        self._price = last_price
        self._second: Bar | None = None
        self._minute: Bar | None = None
        self._merged: dict[str, Bar] = {}
        self._merged_to: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._day: tuple[int, Bar] | None = None
        self._last_trade = -1
        self._last_time = 0

    def resume(self, now: int) -> None:
        """Rebuild the open bars from the stored trades, and close them up to `now`."""
        last = self._store.last_trades(self._key, 1)
        if not last:
            return
        start, end = window("1m", last[0].time)
        for row in self._store.trades_between(self._key, start, end):
            self.roll(row.time, row.time)
            self.add(row)
        self.roll(now, now)

    def add(self, row: TradeRow) -> None:
        """Add a trade; call `roll` with its time first."""
        if self._second is None or self._minute is None:
            self._second = Bar(*window("1s", row.time))
            self._minute = Bar(*window("1m", row.time))
        for bar in (self._second, self._minute):
            bar.add(row.id, row.price, row.quantity, row.buyer_is_maker)
        self._price = row.price
        self._last_trade = row.id
        self._last_time = row.time

    def roll(self, time: int, now: int) -> None:
        """Close the bars that end at or before `time`, publishing at `now`."""
        second, minute = self._second, self._minute
        if second is None or minute is None or second.end > time:
            return
        stream = self._prefix + "1s"
        while second.end <= time:
            if self._hub.wanted(stream):
                self._publish("1s", second, True, now)
                start = second.end
            else:
                start = max(second.end, window("1s", time)[0])
            if minute.end <= start:
                minute = self._close_minutes(minute, start, now)
            second = Bar.flat(start, start + SECOND, self._price)
        self._second, self._minute = second, minute

    def _close_minutes(self, minute: Bar, until: int, now: int) -> Bar:
        """Close the minutes that end at or before `until`; return the open one."""
        wanted = [name for name in INTERVALS if self._hub.wanted(self._prefix + name)]
        while minute.end <= until:
            if minute.trades:
                self._store.add_minute(self._key, minute)
            for interval in wanted:
                if interval == "1m":
                    self._publish(interval, minute, True, now)
                elif interval != "1s":
                    bar = self._so_far(interval, minute)
                    self._merged[interval] = bar
                    self._merged_to[interval] = minute.end
                    if bar.end == minute.end:
                        self._publish(interval, bar, True, now)
            following = minute.end if wanted else window("1m", until)[0]
            minute = Bar.flat(following, following + MINUTE, self._price)
        return minute

    def _so_far(self, interval: str, minute: Bar) -> Bar:
        """Return the interval's bar up to and including the given minute."""
        start, end = window(interval, minute.start)
        merged = self._merged.get(interval)
        if merged is None or merged.start != start or self._merged_to[interval] != minute.start:
            merged = self._closed(start, end, minute.start)
        return merged.extended(minute)

    def _closed(self, start: int, end: int, until: int) -> Bar:
        before = self._store.last_minute(self._key, start)
        minutes = self._store.minutes(self._key, start, until)
        opening = before.close if before else (minutes[0].open if minutes else self._price)
        bar = Bar.flat(start, end, opening)
        for minute in minutes:
            bar = bar.extended(minute)
        return bar

    def _publish(self, interval: str, bar: Bar, closed: bool, now: int) -> None:
        self._hub.publish(
            self._prefix + interval,
            lambda micro: bar.event(self._symbol, interval, closed, now, 1 if micro else 1000),
        )

    def second(self, now: int, recorded: set[str]) -> None:
        """Publish open bars (every 2 s) and the mini ticker after a market second."""
        if "miniTicker" not in recorded and self._hub.wanted(self._ticker):
            self._hub.publish(self._ticker, partial(self.mini_ticker, now))
        minute = self._minute
        if minute is None or (now // SECOND) % 2:
            return
        for interval in INTERVALS:
            stream = f"kline_{interval}"
            if interval == "1s" or stream in recorded:
                continue
            changed = self._sent.get(interval) != self._last_trade
            if changed and self._hub.wanted(self._prefix + interval):
                self._sent[interval] = self._last_trade
                bar = minute if interval == "1m" else self._so_far(interval, minute)
                # A copy: the bar continues to change while the frame may still be held.
                self._publish(interval, bar.extended(Bar(bar.end, bar.end)), False, now)

    def latest(self, interval: str, zone: int = 0) -> int:
        """Return the start (µs) of the newest window; 0 before the first trade."""
        newest = self._second if interval == "1s" else self._minute
        return window(interval, newest.start, zone)[0] if newest else 0

    def rows(
        self, interval: str, start: int, end: int, limit: int, *, last: int = MOST, zone: int = 0
    ) -> list[Bar]:
        """Return up to `limit` bars with start <= bar start < end, oldest first.

        Only trades up to the id `last` count. `zone` is the windows' offset from UTC, in µs.
        Windows without trades between the first trade and now are flat bars, like the venue's.
        """
        newest = self._second if interval == "1s" else self._minute
        oldest = self._store.first_time(self._key, seconds=interval == "1s")
        if newest is None:
            return []
        at, following = window(interval, max(start, min(oldest, newest.start)), zone)
        if at < start:
            at = following
        windows: list[tuple[int, int]] = []
        while at < end and at <= newest.start and len(windows) < limit:
            windows.append(window(interval, at, zone))
            at = windows[-1][1]
        if not windows:
            return []
        first = windows[0][0]
        parts = self._parts(interval, first, windows[-1][1], last)
        price = self._price_before(interval, first)
        bars: list[Bar] = []
        for opened, closed in windows:
            bar = Bar.flat(opened, closed, price)
            while parts and parts[-1].start < closed:
                bar = bar.extended(parts.pop())
            price = bar.close
            bars.append(bar)
        return bars

    def _parts(self, interval: str, start: int, end: int, last: int) -> list[Bar]:
        """Return bars of the interval's parts, newest first: seconds with trades, or minutes."""
        if interval != "1s":
            minutes = self._store.minutes(self._key, start, end)
            if self._minute is not None and start <= self._minute.start < end:
                minutes.append(self._minute)
            return [
                minute if minute.last_trade <= last else self._known(minute, last)
                for minute in reversed(minutes)
            ]
        seconds: list[Bar] = []
        for row in self._store.trades_between(self._key, start, end):
            if row.id > last:
                break
            if not seconds or seconds[-1].end <= row.time:
                seconds.append(Bar(*window("1s", row.time)))
            seconds[-1].add(row.id, row.price, row.quantity, row.buyer_is_maker)
        return seconds[::-1]

    def _known(self, minute: Bar, last: int) -> Bar:
        """Return a minute's bar of the trades up to an id."""
        bar = Bar(minute.start, minute.end)
        for row in self._store.trades_between(self._key, minute.start, minute.end):
            if row.id <= last:
                bar.add(row.id, row.price, row.quantity, row.buyer_is_maker)
        return bar

    def _price_before(self, interval: str, start: int) -> int:
        if interval == "1s":
            return self._store.price_before(self._key, start)
        minute = self._store.last_minute(self._key, start)
        return minute.close if minute else 0

    def is_news(self, now: int) -> bool:
        """Return whether there was a trade in the second before `now` (µs)."""
        return self._last_time >= now - SECOND

    def mini_ticker(self, now: int, micro: bool) -> bytes:
        """Return the payload of `<symbol>@miniTicker` over the last 24 h."""
        minute = self._minute or Bar.flat(now, now, self._price)
        if self._day is None or self._day[0] != minute.start:
            opened = window("1m", now - DAY)[0]
            self._day = (minute.start, self._closed(opened, now, minute.start))
        day = self._day[1].extended(minute)
        return (
            f'{{"e":"24hrMiniTicker","E":{now if micro else now // 1000},"s":"{self._symbol}",'
            f'"c":"{to_text(self._price)}","o":"{to_text(day.open)}","h":"{to_text(day.high)}",'
            f'"l":"{to_text(day.low)}","v":"{to_text(day.volume)}","q":"{quote_text(day.quote)}"}}'
        ).encode()
