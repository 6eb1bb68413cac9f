"""One symbol's market: its book, trades and bars, and the streams derived from them.

All responses about a symbol are based on this state (or on the store behind it), so that snapshots,
trades, klines and streams agree. A stream contained in the capture being played (`recorded`) is
published unchanged; all others are derived.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

from coinmesh_simulators.exchange import payloads
from coinmesh_simulators.exchange.aggregates import Aggregates
from coinmesh_simulators.exchange.amounts import to_text
from coinmesh_simulators.exchange.book import Change, OrderBook, Side, Top
from coinmesh_simulators.exchange.freshness import DatabaseView
from coinmesh_simulators.exchange.hub import Hub, Payload
from coinmesh_simulators.exchange.instruments import Instrument
from coinmesh_simulators.exchange.klines import Klines
from coinmesh_simulators.exchange.past_books import PastBooks
from coinmesh_simulators.exchange.store import Store, TradeRow

PARTIAL_DEPTHS = (5, 10, 20)


class SymbolStatus(StrEnum):
    """The statuses of a symbol in enums.md and the change log."""

    TRADING = "TRADING"
    END_OF_DAY = "END_OF_DAY"
    HALT = "HALT"
    BREAK = "BREAK"
    CANCEL_ONLY = "CANCEL_ONLY"


class SymbolMarket:
    """The state of one symbol; every change publishes the events of its streams."""

    def __init__(
        self, key: int, instrument: Instrument, hub: Hub, store: Store, state: dict[str, Any]
    ) -> None:
        self.key = key
        self.instrument = instrument
        self.status = SymbolStatus(state.get("status", SymbolStatus.TRADING))
        self.book = OrderBook()
        self.recorded: set[str] = set()
        self.last_trade: int = state.get("trade", 0)
        self.last_price: int = state.get("price", 0)
        self.depth_id: int = state.get("depth", 0)
        self.opening_levels: int = state.get("levels", 0)  # of a side, at most
        self.dirty = False  # changed since it was saved
        self.touched = False  # changed since the last tenth of a second
        self._hub = hub
        self._store = store
        self._prefix = instrument.stream + "@"
        self._slow_id = self.depth_id
        self._fast: dict[tuple[Side, int], int] = {}
        self._past = PastBooks()
        self._slow: dict[tuple[Side, int], int] = {}
        self._top = Top(0, 0, 0, 0)
        self._quote_id = 0
        self.database = DatabaseView(self.last_trade)
        self.aggregates = Aggregates(key, instrument, hub, store, state.get("aggregate", 0))
        self.klines = Klines(key, instrument, hub, store, self.last_price)
        if state:
            self.touched = True
            self.book.reset(state["update"], store.levels(key))
            for side, price, size, before in state["fast"]:
                self._fast[(Side(side), price)] = size
                self._past.on_change((Side(side), price), before)
            self._top = self.book.top()

    # -- trades ---------------------------------------------------------------------------------

    def trade(self, trade: TradeRow, event_time: int, payload: Payload | None = None) -> None:
        """Add and publish a trade without its aggregate's id; `payload` is a recorded one."""
        self.klines.roll(trade.time, event_time)
        if "aggTrade" in self.recorded:
            row = self.aggregates.assign_recorded(trade)
        else:
            row = self.aggregates.assign(trade, event_time)
        self._store.add_trade(self.key, row)
        self.klines.add(row)
        self.last_trade = row.id
        self.last_price = row.price
        self.dirty = self.touched = True
        self._hub.publish(
            self._prefix + "trade", payload or self._payload(payloads.trade, row, event_time)
        )

    def recorded_aggregate(
        self, aggregate: int, first: int, last: int, price: int, payload: Payload
    ) -> None:
        """Record an aggregate trade of a capture and publish it."""
        self.last_trade = max(self.last_trade, last)
        self.last_price = price
        self.dirty = self.touched = True
        self.aggregates.pass_on(aggregate, first, last, payload)

    def _payload(self, build: Callable[..., bytes], *values: object) -> Payload:
        return partial(build, self.instrument.symbol, *values)

    # -- book -----------------------------------------------------------------------------------

    def change(self, changes: list[Change]) -> None:
        """Change levels of the generated book: each change takes the next update id."""
        for change in changes:
            self._set(change)
            self._store.set_level(self.key, change)
        self.book.update_id += len(changes)
        self.dirty = self.touched = True
        self._quote()

    def _set(self, change: Change) -> None:
        place = (change.side, change.price)
        self._past.on_change(place, self.book.quantity(*place))
        self._fast[place] = self._slow[place] = change.quantity
        self.book.set(change)

    def opened(self) -> None:
        """Make the present book the initial one: no depth event covers its creation."""
        self.opening_levels = max(len(self.book.levels(side)) for side in Side)
        for changes in (self._fast, self._slow, self._past):
            changes.clear()
        self.depth_id = self._slow_id = self.book.update_id

    def _quote(self) -> None:
        top = self.book.top()
        if top != self._top and top.bid and top.ask:
            self._top = top
            self._hub.publish(
                self._prefix + "bookTicker",
                self._payload(payloads.quote, top, self.book.update_id),
            )

    def recorded_quote(self, update_id: int, top: Top, payload: Payload) -> None:
        """Record a bookTicker of a capture and publish it."""
        self._top = top
        self._quote_id = update_id
        self._hub.publish(self._prefix + "bookTicker", payload)

    def recorded_depth(
        self, kind: str, first: int, last: int, changes: list[Change], payload: Payload
    ) -> None:
        """Publish a recorded depth event, and apply it if it is newer than the book."""
        if not self.depth_id:
            self.depth_id = self._slow_id = first - 1
        if last > self.depth_id:
            if last > self.book.update_id:
                for change in changes:
                    self.book.set(change)
                self.book.update_id = last
            self._slow.update({(side, price): size for side, price, size in changes})
            self.depth_id = last
        self.dirty = self.touched = True
        self._hub.publish(self._prefix + kind, payload)
        if kind == "depth" and "depth@100ms" not in self.recorded:
            self._hub.publish(self._prefix + "depth@100ms", payload)
        if "bookTicker" not in self.recorded:
            self._quote()

    def end_capture(self) -> None:
        """End the capture: apply the last quote and store the whole book.

        The last quote may be newer than the last depth event.
        """
        self.recorded = set()
        if not self.depth_id:
            self.depth_id = self._slow_id = max(self._quote_id, self.book.update_id)
        if self._quote_id > self.book.update_id:
            top = self._top
            crossed = [
                Change(side, price, 0)
                for side, best in ((Side.BID, top.bid), (Side.ASK, top.ask))
                for price in self.book.levels(side)
                if (price > best if side is Side.BID else price < best)
            ]
            crossed.append(Change(Side.BID, top.bid, top.bid_quantity))
            crossed.append(Change(Side.ASK, top.ask, top.ask_quantity))
            for change in crossed:
                self._set(change)
            self.book.update_id = self._quote_id
        for side in Side:
            for price, quantity in self.book.levels(side).items():
                self._store.set_level(self.key, Change(side, price, quantity))
        self.dirty = self.touched = True

    def snapshot(self, limit: int, events_ago: int | None = None) -> dict[str, object]:
        """Return the response of `GET /api/v3/depth`.

        It is the present book, which may be between two depth events, or the book after the last
        event (`events_ago` 0) or an earlier one. While a capture plays, the book may be ahead of
        the stream, by the capture's first snapshot.
        """
        update_id, before = self.book.update_id, {}
        if events_ago is not None:
            # Without changes since the last event the book is the one after it.
            depth_id = self.depth_id if self._fast else update_id
            update_id, before = self._past.at(events_ago, depth_id)
        now = [Change(side, price, self.book.quantity(side, price)) for side, price in before]
        for (side, price), size in before.items():
            self.book.set(Change(side, price, size))
        answer: dict[str, object] = {
            "lastUpdateId": update_id,
            "bids": self.book.ladder(Side.BID, limit),
            "asks": self.book.ladder(Side.ASK, limit),
        }
        for change in now:
            self.book.set(change)
        return answer

    def pass_on(self, kind: str, payload: Payload) -> None:
        """Publish a recorded event of a stream that changes no state here."""
        self._hub.publish(self._prefix + kind, payload)

    # -- time -----------------------------------------------------------------------------------

    def tenth(self, now: int) -> None:
        """Publish the fast depth streams after a tenth of a market second."""
        self.touched = False
        self.database.note(self.last_trade)
        self.aggregates.flush(now)
        if self._fast and "depth@100ms" not in self.recorded:
            changes, self._fast = self._fast, {}
            self._past.on_event(self.depth_id)
            self._depth("depth@100ms", self.depth_id + 1, self.book.update_id, changes, now)
            self.depth_id = self.book.update_id
        self._partial("@100ms")

    def second(self, now: int) -> None:
        """Publish the slow streams after a market second."""
        if self._slow and "depth" not in self.recorded and self.depth_id > self._slow_id:
            changes, self._slow = self._slow, {}
            self._depth("depth", self._slow_id + 1, self.depth_id, changes, now)
            self._slow_id = self.depth_id
        self._partial("")
        self.klines.second(now, self.recorded)

    def _depth(
        self, kind: str, first: int, last: int, changes: dict[tuple[Side, int], int], now: int
    ) -> None:
        event = payloads.DepthEvent(first, last, changes)
        self._hub.publish(self._prefix + kind, self._payload(payloads.depth, event, now))

    def _partial(self, suffix: str) -> None:
        for limit in PARTIAL_DEPTHS:
            kind = f"depth{limit}{suffix}"
            if kind not in self.recorded and self._hub.wanted(self._prefix + kind):
                build = partial(payloads.partial_depth, self.book, limit)
                self._hub.publish(self._prefix + kind, build)

    # -- state ----------------------------------------------------------------------------------

    def save(self, *, whole: bool) -> None:
        """Store the state with the next commit; while a capture plays, the capture is the state."""
        self.dirty = False
        if not whole:
            return
        self._store.set_state(
            self.key,
            {
                "trade": self.last_trade,
                "aggregate": self.aggregates.last_id,
                "price": self.last_price,
                "update": self.book.update_id,
                "depth": self.depth_id,
                "fast": [
                    (*place, size, self._past.quantity_before(place))
                    for place, size in self._fast.items()
                ],
                "status": self.status,
                "levels": self.opening_levels,
                "tick": self.instrument.tick,
                "lot": self.instrument.lot,
            },
        )

    def truth(self) -> dict[str, object]:
        """Return the response of `GET /admin/market/{symbol}`."""
        top = self.book.top()
        return {
            "symbol": self.instrument.symbol,
            "status": self.status,
            "lastTradeId": self.last_trade,
            "lastAggregateId": self.aggregates.last_id,
            "lastUpdateId": self.book.update_id,
            "lastDepthId": self.depth_id,
            "bid": [to_text(top.bid), to_text(top.bid_quantity)],
            "ask": [to_text(top.ask), to_text(top.ask_quantity)],
            "levels": [len(self.book.levels(side)) for side in Side],
            "trades": self._store.trade_count(self.key),
        }
