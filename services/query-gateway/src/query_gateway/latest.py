"""Latest values in Redis: written continuously, read at start, rewritten after a data loss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, TypeVar, get_type_hints

import orjson

from meshkit.resources import Resource
from query_gateway.cache import Cache, Versioned, latest_key
from query_gateway.day_figures import LEADERBOARDS, texts
from query_gateway.live_view import LiveView, News, QuoteRow
from query_gateway.trades import TradeRow

_log = logging.getLogger(__name__)
R = TypeVar("R", TradeRow, QuoteRow)
WRITE_SECONDS: Final = 0.25
RANK_EVERY: Final = 20
"""Number of value writes per leaderboard write."""


def versioned(kind: str, instrument: str, row: TradeRow | QuoteRow) -> Versioned:
    """Return a row as a latest value. Versions of one key are ordered as text."""
    if isinstance(row, TradeRow):
        version = f"{row.time_ms:020d}{row.trade_id:020d}"
    else:
        version = f"{row.update_id:020d}"
    return Versioned(latest_key(kind, instrument), version, orjson.dumps(tuple(row)))


def decode(kind: type[R], data: bytes | None) -> R | None:
    """Return the row in a latest value; None if there is none or it is damaged."""
    if data is None:
        return None
    try:
        fields: Any = orjson.loads(data)
        types = tuple(get_type_hints(kind).values())
        if not isinstance(fields, list) or tuple(map(type, fields)) != types:
            raise ValueError("fields")
        return kind(*fields)
    except ValueError:
        _log.warning("a latest value in Redis is damaged; going on without it")
        return None


async def load(cache: Cache, view: LiveView, instruments: Iterable[str]) -> None:
    """Load the values of Redis into the view; newer values in the view are kept."""
    names = list(instruments)
    trades = await cache.latest([latest_key("trade", name) for name in names])
    quotes = await cache.latest([latest_key("quote", name) for name in names])
    for name, trade, quote in zip(names, trades, quotes, strict=True):
        last, best = decode(TradeRow, trade), decode(QuoteRow, quote)
        if last is not None:
            view.put_trade(name, last)
        if best is not None:
            view.put_quote(name, best)


class LatestWriter(Resource):
    """Writes new values to Redis a few times a second, each value at most once."""

    def __init__(self, cache: Cache, view: LiveView) -> None:
        self._cache, self._view = cache, view
        self._dirty: dict[tuple[str, str], TradeRow | QuoteRow] = {}
        self._lost = True

    def note(self, news: News) -> None:
        """Queue an update; the newest trade and quote of each instrument are written next time."""
        row = news.row
        if not isinstance(row, TradeRow | QuoteRow):
            return
        key = news.channel, news.instrument
        before = self._dirty.get(key)
        if before is None or not isinstance(row, TradeRow) or row > before:
            self._dirty[key] = row

    async def run(self) -> None:
        """Write until cancelled."""
        turn = 0
        while True:
            await self.write()
            if turn % RANK_EVERY == 0:
                await self.rank()
            turn += 1
            await asyncio.sleep(WRITE_SECONDS)

    async def write(self) -> None:
        """Write new values, and all values after Redis lost its data."""
        dirty, self._dirty = self._dirty, {}
        if self._lost:
            dirty = {**self._everything(), **dirty}
        values = [versioned(*key, row) for key, row in dirty.items()]
        self._lost = not await self._cache.offer(values)

    async def rank(self) -> None:
        """Write the leaderboards."""
        day = self._view.day
        for name in LEADERBOARDS:
            ranking = texts(self._view.ranking(name))
            if ranking:
                version = f"{day.clock_ms:020d}{len(ranking):010d}"
                await self._cache.rank(name, version, ranking)

    def _everything(self) -> dict[tuple[str, str], TradeRow | QuoteRow]:
        view = self._view
        found: dict[tuple[str, str], TradeRow | QuoteRow] = {}
        for name in view.instruments:
            last, best = view.last_trade(name), view.quotes.get(name)
            if last is not None:
                found["trade", name] = last
            if best is not None:
                found["quote", name] = best
        return found
