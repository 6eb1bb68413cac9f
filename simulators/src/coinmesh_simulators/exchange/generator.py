"""A random market: orders that rest, move and trade, a pure function of its random source."""

import random

from coinmesh_simulators.exchange.amounts import ONE
from coinmesh_simulators.exchange.book import Change, Side
from coinmesh_simulators.exchange.market import SymbolMarket
from coinmesh_simulators.exchange.store import TradeRow

_LEVELS = 200  # a side is filled up to this when the market opens
_MOST_LEVELS = 1500
_ANYWHERE = 0.1  # share of the changes deeper in the book that may be at any of its levels
_FEWEST_LEVELS = 20
_TYPICAL_VALUE = 2_000 * ONE  # of an order, in quote units
_GRAIN = 5e-6  # distance of neighbouring levels as a fraction of the price


class Generator:
    """Generate one event after another in a symbol's market."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def populate(self, market: SymbolMarket, levels: int = 0) -> None:
        """Fill the empty sides of a book around the last price.

        `levels` applies if it exceeds the usual number.
        """
        price = market.last_price or market.instrument.price or 100 * ONE
        tick = market.instrument.tick
        middle = max(price // tick, 1_000) * tick
        changes: list[Change] = []
        for side in Side:
            best = market.book.best(side)
            if not best:
                opposite = market.book.best(Side(1 - side)) or middle
                best = opposite + (tick if side else -tick)
                for _ in range(max(levels, _LEVELS)):
                    changes.append(Change(side, best, self._quantity(market, best)))
                    best += (1 if side else -1) * self._step(market, best)
                    if best < tick:
                        break
        if changes:
            market.change(changes)
            if not market.depth_id:
                market.opened()
        market.last_price = price

    def event(self, market: SymbolMarket, time: int, published: int, trading: bool) -> None:
        """Generate an event at `time` (µs): a trade, a change at the top, or a deeper one.

        `published` is when its frames are sent: a trade's event time E, which differs from its time
        T.
        """
        draw = self._random.random()
        if draw < 0.3 and trading:
            self._take(market, time, published)
        elif draw < 0.75:
            self._move_top(market)
        else:
            self._move_deep(market)

    def _take(self, market: SymbolMarket, time: int, published: int) -> None:
        """Fill the best resting orders by a market order."""
        side = self._side()
        book = market.book
        wanted = self._quantity(market, book.best(side))
        lot = market.instrument.lot
        changes: list[Change] = []
        for _ in range(3):
            best = book.best(side)
            resting = book.quantity(side, best)
            if len(book.levels(side)) <= _FEWEST_LEVELS:
                self._extend(market, side)
            taken = min(wanted, resting)
            trade = TradeRow(0, best, taken, time, side is Side.BID, -1)
            self._fill(market, trade, published)
            changes = [Change(side, best, resting - taken)]
            market.change(changes)
            wanted -= taken
            if wanted < lot:
                break

    def _fill(self, market: SymbolMarket, order: TradeRow, published: int) -> None:
        """Publish an order's trades: several resting orders at a level yield one trade each."""
        lot, quantity = market.instrument.lot, order.quantity
        while quantity:
            part = quantity
            if quantity >= 2 * lot and self._random.random() < 0.2:
                part = self._random.randrange(1, quantity // lot) * lot
            market.trade(order._replace(id=market.last_trade + 1, quantity=part), published)
            quantity -= part
        market.aggregates.flush(published)

    def _move_top(self, market: SymbolMarket) -> None:
        side = self._side()
        book, tick = market.book, market.instrument.tick
        best, opposite = book.best(side), book.best(Side(1 - side))
        inside = abs(opposite - best) // tick - 1
        wide = inside > 2 * self._grain(market, best)
        draw = self._random.random()
        if inside > 0 and draw < (0.9 if wide else 0.35):
            # In a wide spread most orders close most of it, so that the price moves slowly.
            step = self._random.randint(inside // 2 + 1 if wide else 1, inside) * tick
            price = best + (-step if side else step)
            market.change([Change(side, price, self._quantity(market, price))])
        elif draw > 0.85 and not wide:
            if len(book.levels(side)) <= _FEWEST_LEVELS:
                self._extend(market, side)
            market.change([Change(side, best, 0)])
        else:
            market.change([Change(side, best, self._quantity(market, best))])

    def _move_deep(self, market: SymbolMarket) -> None:
        side = self._side()
        levels = market.book.levels(side)
        if len(levels) < _FEWEST_LEVELS:
            self._extend(market, side)
        if self._random.random() < _ANYWHERE:
            depth = self._random.randrange(len(levels))
        else:
            depth = min(int(self._random.expovariate(0.05)) + 1, len(levels) - 1)
        price = levels.keys()[depth if side else -1 - depth]
        draw = self._random.random()
        if draw < (0.8 if len(levels) < _LEVELS else 0.4):
            price += (1 if side else -1) * self._step(market, price)
            if price < market.instrument.tick:
                return
            market.change([Change(side, price, self._quantity(market, price))])
        elif len(levels) > max(_MOST_LEVELS, market.opening_levels) or draw > 0.9:
            market.change([Change(side, price, 0)])
        else:
            market.change([Change(side, price, self._quantity(market, price))])

    def _extend(self, market: SymbolMarket, side: Side) -> None:
        """Add levels behind the worst of a thin side."""
        levels = market.book.levels(side)
        price = levels.keys()[-1 if side else 0]
        changes: list[Change] = []
        for _ in range(_FEWEST_LEVELS):
            price += (1 if side else -1) * self._step(market, price)
            if price < market.instrument.tick:
                break
            changes.append(Change(side, price, self._quantity(market, price)))
        if changes:
            market.change(changes)

    def _side(self) -> Side:
        return Side.ASK if self._random.random() < 0.5 else Side.BID

    def _step(self, market: SymbolMarket, price: int) -> int:
        return self._random.randint(1, 2 * self._grain(market, price)) * market.instrument.tick

    def _grain(self, market: SymbolMarket, price: int) -> int:
        """Return the typical distance of neighbouring levels, in ticks."""
        return max(1, round(price / market.instrument.tick * _GRAIN))

    def _quantity(self, market: SymbolMarket, price: int) -> int:
        lot = market.instrument.lot
        value = self._random.expovariate(1 / _TYPICAL_VALUE)
        return max(1, round(value * ONE / max(price, 1) / lot)) * lot
