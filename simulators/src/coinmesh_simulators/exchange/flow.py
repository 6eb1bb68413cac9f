"""The events of a generated market, drawn in slots of market time."""

import random
from itertools import accumulate

from coinmesh_simulators.exchange.bars import SECOND
from coinmesh_simulators.exchange.generator import Generator
from coinmesh_simulators.exchange.market import SymbolMarket, SymbolStatus

TENTH = 100_000
_SLOT = 10_000  # µs of market time that are generated at once


class EventFlow:
    """Distribute events over time and over the markets, whose activity decreases with rank."""

    def __init__(
        self, markets: dict[str, SymbolMarket], rate: float, seed: int, slots: int
    ) -> None:
        """Create the flow.

        Args:
            markets: The listed markets by symbol.
            rate: Events per market second.
            seed: Seed of the random source.
            slots: Number of slots drawn in earlier runs.
        """
        self.slots = slots
        self._markets = markets
        self._expected = rate * _SLOT / SECOND
        self._random = random.Random(f"{seed}/{slots}")
        self._generator = Generator(self._random)
        self._start = 0
        self._trade_from = 0
        self._times: list[int] = []
        self.rank()

    def rank(self) -> None:
        """Update the ranking to the currently listed markets."""
        self._by_rank = list(self._markets.values())
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._markets) + 1)))

    def populate(self, market: SymbolMarket, levels: int = 0) -> None:
        """Fill an empty book."""
        self._generator.populate(market, levels)

    def begin(self, now: int, trade_from: int) -> None:
        """Start at a market time (µs); the first trade occurs at `trade_from` or later."""
        self._start = now // _SLOT * _SLOT
        self._trade_from = trade_from
        self._plan()

    @property
    def due(self) -> int:
        """Return when the next step is due (market time in µs): at the next tenth at latest."""
        return self._start + _SLOT

    def step(self) -> int:
        """Generate the events until `due` and return their number."""
        times, published = self._times, self.due
        for at in times if self._by_rank else ():
            market = self._random.choices(self._by_rank, cum_weights=self._weights)[0]
            if market.status is SymbolStatus.TRADING:
                self._generator.event(market, at, published, at >= self._trade_from)
        self._next_slot()
        self._plan()
        return len(times)

    def _next_slot(self) -> None:
        self._start += _SLOT
        self.slots += 1

    def _plan(self) -> None:
        """Draw the times of the next slot with events; a slot that ends a tenth may have none."""
        while True:
            count = int(self._expected + self._random.random())
            begin, end = self._start, self.due
            self._times = sorted(self._random.randrange(begin, end) for _ in range(count))
            if count or end % TENTH == 0:
                return
            self._next_slot()
