"""The exchange's symbols: exchangeInfo, read at start and refreshed periodically.

The whole response is large, so only the entries of collected symbols, each as received, are passed
to the engine and recorded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input
from coinmesh_sources.rest import RestClient
from collector_binance.core.instruments import (
    ExchangeInfo,
    SymbolInfo,
    decode_exchange_info,
    decode_symbol_info,
    decode_symbol_name,
    instrument_name,
)
from meshkit.errors import NotFound, Unavailable

_log = logging.getLogger(__name__)

PATH: Final = "/api/v3/exchangeInfo"
WEIGHT: Final = 20
TRADING: Final = "TRADING"
_PER_INPUT: Final = 100
_BAD_ENTRY: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Catalogue:
    """The symbols of the exchange.

    Attributes:
        infos: The exchangeInfo entries by symbol.
    """

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self._raw: dict[str, bytes] = {}
        self._symbols: dict[str, str] = {}
        self._known: set[str] = set()
        self.infos: dict[str, SymbolInfo] = {}

    async def refresh(self) -> None:
        """Read exchangeInfo again.

        Raises:
            Unavailable: The answer can't be used.
        """
        answer = await self._rest.get(PATH, {}, WEIGHT)
        try:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}: {answer.body[:200]!r}")
            info: ExchangeInfo = decode_exchange_info(answer.body)
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            message = f"{self._rest.url}{PATH} gives no exchangeInfo: {error}"
            raise Unavailable("EXCHANGE_ANSWER", message) from error
        entries: dict[str, tuple[SymbolInfo, bytes]] = {}
        kept: set[str] = set()
        for body in info.symbols:
            try:
                entry = decode_symbol_info(body)
                entries[entry.symbol] = entry, bytes(body)
            except _BAD_ENTRY as error:
                _log.warning("exchangeInfo: %s: %s", error, bytes(body)[:200])
                kept.add(_name(body))
        if not entries:
            # Otherwise every symbol would count as delisted.
            message = f"{self._rest.url}{PATH} names no symbol that can be read"
            raise Unavailable("EXCHANGE_ANSWER", message)
        # Keep the last entry of a symbol whose new entry can't be read: it would count as delisted.
        for symbol in kept & self.infos.keys():
            entries.setdefault(symbol, (self.infos[symbol], self._raw[symbol]))
        self._raw = {symbol: body for symbol, (_, body) in entries.items()}
        self.infos = {symbol: entry for symbol, (entry, _) in entries.items()}
        self._symbols = {instrument_name(each, entry): each for each, entry in self.infos.items()}
        self._rest.budget.limit = info.weight_per_minute() or self._rest.budget.limit

    def trading(self) -> list[str]:
        """Return the symbols that trade now, in order."""
        return sorted(name for name, info in self.infos.items() if info.status == TRADING)

    def status(self, symbol: str) -> str:
        """Return a symbol's status on the exchange; "delisted" if it is no longer listed."""
        info = self.infos.get(symbol)
        return info.status if info else "delisted"

    def changes(self, collected: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return symbols that trade and did not at any earlier call, and delisted symbols.

        A symbol that traded before is not returned again after an operator removed it.
        """
        trading, collected = set(self.trading()), set(collected)
        listed = sorted(trading - collected - self._known)
        self._known |= trading
        return listed, sorted(collected - set(self.infos))

    def removed(self, symbols: Iterable[str]) -> None:
        """Mark symbols removed by an operator: they are not new if they trade again."""
        self._known.update(symbols)

    def symbol_of(self, name: str) -> str:
        """Return the venue's symbol for an instrument's name or a symbol.

        Raises:
            NotFound: There is no such instrument.
        """
        symbol = self._symbols.get(name) or name.upper()
        if symbol not in self.infos:
            raise NotFound(
                "INSTRUMENT_NOT_FOUND",
                f"the exchange has no instrument {name!r}; write binance.BTC-USDT or BTCUSDT",
                instrument=name,
            )
        return symbol

    def inputs(self, connection: str, symbols: Iterable[str]) -> list[Input]:
        """Return the entries of symbols as inputs for the engine."""
        bodies = [self._raw[symbol] for symbol in symbols if symbol in self._raw]
        return [
            Input(
                FrameKind.FRAME_KIND_REST,
                connection,
                time.time_ns(),
                b'{"symbols":[' + b",".join(bodies[start : start + _PER_INPUT]) + b"]}",
                f"GET {PATH}",
                200,
            )
            for start in range(0, len(bodies), _PER_INPUT)
        ]


def _name(entry: msgspec.Raw) -> str:
    """Return the symbol of an entry whose other fields can't be read; empty if there is none."""
    try:
        return decode_symbol_name(entry).symbol
    except _BAD_ENTRY:
        return ""
