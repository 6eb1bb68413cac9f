"""What a replica fills its view with at a start, while some of its reads fail."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import MemorySession, bar_row, instrument, trade

from query_gateway import bootstrap as bootstrap_module
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


class PartlySilentSession(MemorySession):
    """Cassandra that doesn't answer for some instruments until it is `released`."""

    def __init__(self, silent: set[str]) -> None:
        super().__init__()
        self.silent, self.released = silent, asyncio.Event()

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        if arguments[0] in self.silent:
            await self.released.wait()
        return await super().fetch(statement, *arguments)


async def test_silent_cassandra_does_not_keep_a_replica_unready() -> None:
    session: Any = PartlySilentSession(set(NAMES[:2]))
    view = LiveView(100)
    for name in NAMES:
        view.apply(instrument(name))
        session.put_bar("1m", bar_row(NOW_MS, trades=5, name=name), name)
        session.put_trade(trades.from_event(trade(1, NOW_MS * 1000, name)), name)
    history = History(session, view.newest_ms, lambda: NOW_MS / 1000, 0.01)
    cache: Any = NoCache()
    bootstrap = Bootstrap(view, history, cache, (), retry_seconds=0.001, fill_seconds=1.0)
    task = asyncio.create_task(bootstrap.run())
    await asyncio.wait_for(bootstrap.done.wait(), 30)
    assert view.unloaded == set(NAMES[:2])
    view.apply(trade(2, NOW_MS * 1000 + 1, NAMES[0]))
    assert view.last_trade(NAMES[0]) == trades.from_event(trade(2, NOW_MS * 1000 + 1, NAMES[0]))
    assert [name for name, _ in view.ranking("trades")] == NAMES[2:]
    session.released.set()
    await asyncio.wait_for(asyncio.gather(*bootstrap._later), 30)
    assert view.unloaded == set()
    assert [figure for _, figure in view.ranking("trades")] == [5] * len(NAMES)
    task.cancel()


async def test_failed_late_load_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(PartlySilentSession):
        async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
            rows = await super().fetch(statement, *arguments)
            if self.released.is_set():
                raise RuntimeError("not a row")
            return rows

    monkeypatch.setattr(bootstrap_module, "_CHECK_SECONDS", 0)
    session: Any = Failing({NAMES[0]})
    view = LiveView(100)
    view.apply(instrument(NAMES[0]))
    history = History(session, view.newest_ms, lambda: NOW_MS / 1000, 0.01)
    cache: Any = NoCache()
    bootstrap = Bootstrap(view, history, cache, (), retry_seconds=0.001, fill_seconds=0.1)
    task = asyncio.create_task(bootstrap.run())
    await asyncio.wait_for(bootstrap.done.wait(), 30)
    session.released.set()
    with pytest.raises(RuntimeError, match="not a row"):
        await asyncio.wait_for(task, 30)


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
