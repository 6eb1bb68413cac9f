"""One symbol's market: its book, trades and bars, and the streams that follow from them.

Everything the exchange answers about a symbol is read from here (or from the store behind it), so
snapshots, trades, klines and streams agree. A stream that a capture being played holds itself
(`recorded`) is passed on as it was; all others are derived.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from coinmesh_simulators.exchange.amounts import to_text
from coinmesh_simulators.exchange.book import Change, OrderBook, Side, Top
from coinmesh_simulators.exchange.hub import Hub, Payload
from coinmesh_simulators.exchange.instruments import Instrument
from coinmesh_simulators.exchange.klines import Klines
from coinmesh_simulators.exchange.store import Store, TradeRow

PARTIAL_DEPTHS = (5, 10, 20)


def per_unit(micro: bool) -> int:
    """Microseconds per published unit of time."""
    return 1 if micro else 1000


def _pairs(changes: Iterable[tuple[int, int]]) -> str:
    return ",".join(f'["{to_text(price)}","{to_text(size)}"]' for price, size in changes)


class SymbolMarket:
    """The state of one symbol; every change publishes what its streams owe."""

    def __init__(
        self, key: int, instrument: Instrument, hub: Hub, store: Store, state: dict[str, Any]
    ) -> None:
        self.key = key
        self.instrument = instrument
        self.book = OrderBook()
        self.recorded: set[str] = set()
        self.last_trade: int = state.get("trade", 0)
        self.last_aggregate: int = state.get("aggregate", 0)
        self.last_price: int = state.get("price", 0)
        self.depth_id: int = state.get("depth", 0)
        self.dirty = False  # changed since it was saved
        self.touched = False  # changed since the last tenth of a second
        self._hub = hub
        self._store = store
        self._prefix = instrument.stream + "@"
        self._slow_id = self.depth_id
        self._fast: dict[tuple[Side, int], int] = {}
        self._before: dict[tuple[Side, int], int] = {}  # what the levels in _fast were
        self._slow: dict[tuple[Side, int], int] = {}
        self._aggregate: list[TradeRow] = []
        self._recorded_aggregate = (0, 1, 0)
        self._top = Top(0, 0, 0, 0)
        self._quote_id = 0
        self.klines = Klines(key, instrument, hub, store, self.last_price)
        if state:
            self.touched = True
            self.book.reset(state["update"], store.levels(key))
            for side, price, size, before in state["fast"]:
                self._fast[(Side(side), price)] = size
                self._before[(Side(side), price)] = before
            self._top = self.book.top()

    # -- trades ---------------------------------------------------------------------------------

    def trade(self, trade: TradeRow, event_time: int, payload: Payload | None = None) -> None:
        """Take a trade without its aggregate's id, and publish it; `payload` is a recorded one."""
        self.klines.roll(trade.time, event_time)
        row = trade._replace(aggregate=self._aggregate_of(trade, event_time))
        self._store.add_trade(self.key, row)
        self.klines.add(row)
        self.last_trade = row.id
        self.last_price = row.price
        self.dirty = self.touched = True
        self._hub.publish(
            self._prefix + "trade", payload or partial(self._trade_payload, row, event_time)
        )

    def _aggregate_of(self, trade: TradeRow, now: int) -> int:
        if "aggTrade" in self.recorded:
            aggregate, first, last = self._recorded_aggregate
            return aggregate if first <= trade.id <= last else -1
        last = self._aggregate[-1] if self._aggregate else None
        if last is None or not _same_order(last, trade):
            self.flush_aggregate(now)
            self.last_aggregate += 1
        row = trade._replace(aggregate=self.last_aggregate)
        self._aggregate.append(row)
        return self.last_aggregate

    def flush_aggregate(self, now: int) -> None:
        """Publish the open aggregate trade: the order that made it is filled."""
        if self._aggregate:
            rows, self._aggregate = self._aggregate, []
            self._hub.publish(
                self._prefix + "aggTrade", partial(self._aggregate_payload, rows, now)
            )

    def recorded_aggregate(
        self, aggregate: int, first: int, last: int, price: int, payload: Payload
    ) -> None:
        """Take a recorded aggregate trade and pass it on."""
        self._recorded_aggregate = (aggregate, first, last)
        self._store.set_aggregate(self.key, aggregate, first, last)
        self.last_aggregate = aggregate
        self.last_trade = max(self.last_trade, last)
        self.last_price = price
        self.dirty = self.touched = True
        self._hub.publish(self._prefix + "aggTrade", payload)

    def _trade_payload(self, row: TradeRow, event_time: int, micro: bool) -> bytes:
        unit = per_unit(micro)
        return (
            f'{{"e":"trade","E":{event_time // unit},"s":"{self.instrument.symbol}",'
            f'"t":{row.id},"p":"{to_text(row.price)}","q":"{to_text(row.quantity)}",'
            f'"T":{row.time // unit},"m":{"true" if row.buyer_is_maker else "false"},"M":true}}'
        ).encode()

    def _aggregate_payload(self, rows: list[TradeRow], event_time: int, micro: bool) -> bytes:
        unit = per_unit(micro)
        first = rows[0]
        return (
            f'{{"e":"aggTrade","E":{event_time // unit},"s":"{self.instrument.symbol}",'
            f'"a":{first.aggregate},"p":"{to_text(first.price)}",'
            f'"q":"{to_text(sum(row.quantity for row in rows))}",'
            f'"f":{first.id},"l":{rows[-1].id},"T":{first.time // unit},'
            f'"m":{"true" if first.buyer_is_maker else "false"},"M":true}}'
        ).encode()

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
        self._before.setdefault(place, self.book.quantity(*place))
        self._fast[place] = self._slow[place] = change.quantity
        self.book.set(change)

    def opened(self) -> None:
        """The book as it is now is the beginning: no depth event tells of what made it."""
        for changes in (self._fast, self._slow, self._before):
            changes.clear()
        self.depth_id = self._slow_id = self.book.update_id

    def _quote(self) -> None:
        top = self.book.top()
        if top != self._top and top.bid and top.ask:
            self._top = top
            self._hub.publish(
                self._prefix + "bookTicker",
                partial(self._quote_payload, top, self.book.update_id),
            )

    def _quote_payload(self, top: Top, update_id: int, _micro: bool) -> bytes:
        return (
            f'{{"u":{update_id},"s":"{self.instrument.symbol}",'
            f'"b":"{to_text(top.bid)}","B":"{to_text(top.bid_quantity)}",'
            f'"a":"{to_text(top.ask)}","A":"{to_text(top.ask_quantity)}"}}'
        ).encode()

    def recorded_quote(self, update_id: int, top: Top, payload: Payload) -> None:
        """Take a recorded bookTicker and pass it on."""
        self._top = top
        self._quote_id = update_id
        self._hub.publish(self._prefix + "bookTicker", payload)

    def recorded_depth(
        self, kind: str, first: int, last: int, changes: list[Change], payload: Payload
    ) -> None:
        """Take a recorded depth event: pass it on, and apply what the book doesn't hold yet."""
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
        """The capture is over: take over the last quote (it may be newer than the last depth
        event) and keep the whole book."""
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

    def snapshot(self, limit: int) -> dict[str, object]:
        """The answer of `GET /api/v3/depth`: the book as of the last event on `depth@100ms`.

        While a capture plays it may be ahead of the stream, by the snapshot it begins with.
        """
        for (side, price), size in self._before.items():
            self.book.set(Change(side, price, size))
        answer: dict[str, object] = {
            "lastUpdateId": self.depth_id if self._fast else self.book.update_id,
            "bids": self.book.ladder(Side.BID, limit),
            "asks": self.book.ladder(Side.ASK, limit),
        }
        for (side, price), size in self._fast.items():
            self.book.set(Change(side, price, size))
        return answer

    def pass_on(self, kind: str, payload: Payload) -> None:
        """Publish a recorded event of a stream that changes no state here."""
        self._hub.publish(self._prefix + kind, payload)

    # -- time -----------------------------------------------------------------------------------

    def tenth(self, now: int) -> None:
        """A tenth of a market second passed: publish the fast depth streams."""
        self.touched = False
        self.flush_aggregate(now)
        if self._fast and "depth@100ms" not in self.recorded:
            changes, self._fast, self._before = self._fast, {}, {}
            self._depth("depth@100ms", self.depth_id + 1, self.book.update_id, changes, now)
            self.depth_id = self.book.update_id
        self._partial("@100ms")

    def second(self, now: int) -> None:
        """A market second passed: publish the slow streams."""
        if self._slow and "depth" not in self.recorded and self.depth_id > self._slow_id:
            changes, self._slow = self._slow, {}
            self._depth("depth", self._slow_id + 1, self.depth_id, changes, now)
            self._slow_id = self.depth_id
        self._partial("")
        self.klines.second(now, self.recorded)

    def _depth(
        self, kind: str, first: int, last: int, changes: dict[tuple[Side, int], int], now: int
    ) -> None:
        build = partial(self._depth_payload, first, last, changes, now)
        self._hub.publish(self._prefix + kind, build)

    def _depth_payload(
        self, first: int, last: int, changes: dict[tuple[Side, int], int], now: int, micro: bool
    ) -> bytes:
        items = sorted(changes.items())
        bids = _pairs((price, size) for (side, price), size in reversed(items) if not side)
        asks = _pairs((price, size) for (side, price), size in items if side)
        return (
            f'{{"e":"depthUpdate","E":{now // per_unit(micro)},"s":"{self.instrument.symbol}",'
            f'"U":{first},"u":{last},"b":[{bids}],"a":[{asks}]}}'
        ).encode()

    def _partial(self, suffix: str) -> None:
        for limit in PARTIAL_DEPTHS:
            kind = f"depth{limit}{suffix}"
            if kind not in self.recorded and self._hub.wanted(self._prefix + kind):
                self._hub.publish(self._prefix + kind, partial(self._partial_payload, limit))

    def _partial_payload(self, limit: int, _micro: bool) -> bytes:
        bids, asks = (
            ",".join(f'["{price}","{size}"]' for price, size in self.book.ladder(side, limit))
            for side in Side
        )
        return (
            f'{{"lastUpdateId":{self.book.update_id},"bids":[{bids}],"asks":[{asks}]}}'
        ).encode()

    # -- state ----------------------------------------------------------------------------------

    def save(self, *, whole: bool) -> None:
        """Keep the state with the next commit; while a capture plays, the capture is the state."""
        self.dirty = False
        if not whole:
            return
        self._store.set_state(
            self.key,
            {
                "trade": self.last_trade,
                "aggregate": self.last_aggregate,
                "price": self.last_price,
                "update": self.book.update_id,
                "depth": self.depth_id,
                "fast": [(*place, size, self._before[place]) for place, size in self._fast.items()],
                "tick": self.instrument.tick,
                "lot": self.instrument.lot,
            },
        )

    def truth(self) -> dict[str, object]:
        """What `GET /admin/market/{symbol}` tells."""
        top = self.book.top()
        return {
            "symbol": self.instrument.symbol,
            "lastTradeId": self.last_trade,
            "lastAggregateId": self.last_aggregate,
            "lastUpdateId": self.book.update_id,
            "lastDepthId": self.depth_id,
            "bid": [to_text(top.bid), to_text(top.bid_quantity)],
            "ask": [to_text(top.ask), to_text(top.ask_quantity)],
            "trades": self._store.trade_count(self.key),
        }


def _same_order(one: TradeRow, other: TradeRow) -> bool:
    """Whether two trades count as fills of one taker order: same time, price and side."""
    return (one.time, one.price, one.buyer_is_maker) == (
        other.time,
        other.price,
        other.buyer_is_maker,
    )
