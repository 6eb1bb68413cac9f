"""The exchange's symbols: loading, listing, halting, delisting, starting over."""

from typing import Any

from coinmesh_simulators.exchange.capture import Survey
from coinmesh_simulators.exchange.hub import Hub
from coinmesh_simulators.exchange.instruments import Instrument, listed
from coinmesh_simulators.exchange.market import SymbolMarket, SymbolStatus
from coinmesh_simulators.exchange.store import Store

_DELISTED = {"status": "DELISTED"}


class ListingError(ValueError):
    """Raised when a listing can't be changed; the message has the reason."""


class Listings:
    """Markets by symbol, in the order of their activity."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self.markets: dict[str, SymbolMarket] = {}
        self._store = store
        self._hub = hub
        self._keys: dict[str, int] = {}  # of delisted symbols, too

    def load(self, configured: str, survey: Survey | None, *, generated: bool) -> None:
        """Load the stored symbols, then those configured (or of the capture to play).

        `generated` is true when the stored state is that of a generated market.
        """
        for key, symbol, state in self._store.symbols():
            self._keys[symbol] = key
            if state == _DELISTED:
                continue
            if state:
                instrument = Instrument(symbol, state["tick"], state["lot"], state["price"])
                self._add(key, instrument, state if generated else {})
            elif survey and symbol in survey.symbols:
                self._add(key, survey.symbols[symbol].instrument(), {})
            else:
                self._add(key, listed(symbol)[0], {})
        if survey:
            wanted = [entry.instrument() for entry in survey.symbols.values()]
        else:
            wanted = listed(configured) if not self._store.meta().get("capture") else []
        for instrument in wanted:
            if instrument.symbol not in self._keys:
                self._add(self._new_key(instrument.symbol), instrument, {})

    def add(self, symbol: str) -> SymbolMarket:
        """List a symbol; a formerly listed one starts over. Raise ListingError if it is listed."""
        if symbol in self.markets:
            raise ListingError(f"{symbol} is listed already")
        key = self._keys.get(symbol)
        if key is None:
            key = self._new_key(symbol)
        else:
            self._store.forget(key)
        return self._add(key, listed(symbol)[0], {})

    def delist(self, symbol: str) -> None:
        """Remove a symbol and its history; its streams become silent."""
        market = self._market(symbol)
        self._store.forget(market.key)
        self._store.set_state(market.key, _DELISTED)
        self._store.commit()
        del self.markets[symbol]

    def start_over(self, symbol: str) -> SymbolMarket:
        """Delete a symbol's book and history: its ids restart at 1, as after a testnet's reset."""
        market = self._market(symbol)
        self._store.forget(market.key)
        return self._add(market.key, market.instrument, {})

    def set_status(self, symbol: str, status: SymbolStatus) -> SymbolMarket:
        """Change a symbol's status; its streams are silent unless it is TRADING."""
        market = self._market(symbol)
        market.status = status
        market.dirty = True
        return market

    def _market(self, symbol: str) -> SymbolMarket:
        market = self.markets.get(symbol)
        if market is None:
            raise ListingError(f"no symbol {symbol}")
        return market

    def _new_key(self, symbol: str) -> int:
        self._keys[symbol] = key = self._store.add_symbol(symbol)
        return key

    def _add(self, key: int, instrument: Instrument, state: dict[str, Any]) -> SymbolMarket:
        market = SymbolMarket(key, instrument, self._hub, self._store, state)
        self.markets[instrument.symbol] = market
        return market
