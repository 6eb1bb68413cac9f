"""What a replica fills its view with at a start, while some of its reads fail."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import MemorySession, bar_row, instrument, trade

from query_gateway import trades
from query_gateway.bootstrap import Bootstrap
from query_gateway.history import History
from query_gateway.live_view import LiveView

NOW_MS = 1_790_000_000_000 // 60_000 * 60_000
NAMES = [f"binance.X{number}-USDT" for number in range(6)]


class NoCache:
    """Redis that has lost everything."""

    async def latest(self, keys: list[str]) -> list[None]:
        return [None] * len(keys)


async def fill(failing: set[int]) -> tuple[LiveView, int]:
    """The filled view, and how many reads Cassandra got."""
    session: Any = MemorySession()
    view = LiveView(100)
    for number, name in enumerate(NAMES):
        view.apply(instrument(name))
        session.put_bar("1m", bar_row(NOW_MS, trades=5 + number, name=name), name)
        session.put_trade(trades.from_event(trade(number + 1, NOW_MS * 1000, name)), name)
    session.failing = failing.__contains__
    history = History(session, view.newest_ms, lambda: NOW_MS / 1000)
    cache: Any = NoCache()
    bootstrap = Bootstrap(view, history, cache, (), retry_seconds=0.001)
    task = asyncio.create_task(bootstrap.run())
    await bootstrap.done.wait()
    task.cancel()
    return view, session.reads


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(1, 170), min_size=1, max_size=8))
async def test_failed_read_is_the_only_one_retried(failing: set[int]) -> None:
    _, needed = await fill(set())
    view, reads = await fill(failing)
    assert [view.last_trade(name) is not None for name in NAMES] == [True] * len(NAMES)
    assert [figures.trade_count for name in NAMES if (figures := view.day.of(name))] == [
        5 + number for number in range(len(NAMES))
    ]
    # A read that fails is a step of one instrument: what others have read stays read.
    assert reads <= needed + 20 * len(failing)
