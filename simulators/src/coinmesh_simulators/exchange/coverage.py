"""The start condition of a capture: each of its streams has had a subscriber."""

import asyncio

from coinmesh_simulators.exchange.hub import Hub
from coinmesh_simulators.exchange.market import SymbolMarket


class Coverage:
    """Watch subscriptions until the streams of all markets' captures are covered."""

    def __init__(self, hub: Hub, markets: dict[str, SymbolMarket]) -> None:
        self._hub = hub
        self._markets = markets
        self._complete = asyncio.Event()

    async def wait(self) -> None:
        """Wait until every required stream has had a subscriber."""
        self._hub.on_subscribed = self._check
        self._check()
        await self._complete.wait()
        self._hub.on_subscribed = lambda: None

    def required(self) -> list[tuple[str, ...]]:
        """Return the streams required by a capture: one of each group must be subscribed to."""
        groups: list[tuple[str, ...]] = []
        for market in self._markets.values():
            name = market.instrument.stream
            groups += [
                (f"{name}@{kind}",) for kind in ("trade", "bookTicker") if kind in market.recorded
            ]
            if market.recorded & {"depth", "depth@100ms"}:
                groups.append((f"{name}@depth@100ms", f"{name}@depth"))
        return groups or [
            (f"{market.instrument.stream}@{kind}",)
            for market in self._markets.values()
            for kind in market.recorded
        ]

    def _check(self) -> None:
        if all(any(self._hub.wanted(stream) for stream in group) for group in self.required()):
            self._complete.set()
