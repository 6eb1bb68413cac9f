"""History: reads of Cassandra within a request's deadline."""

import asyncio
from typing import Any

import pytest
from market_data import INSTRUMENT, MemorySession

from meshkit.errors import Unavailable
from query_gateway.history import History
from query_gateway.requests import MAX_MS

NOW_MS = 1_790_000_000_000


class SilentSession(MemorySession):
    """Cassandra that takes requests and doesn't answer."""

    async def fetch(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


async def test_reads_of_one_request_end_at_their_deadline() -> None:
    history = History(SilentSession(), lambda _: 0, lambda: NOW_MS / 1000, 0.01)  # type: ignore[arg-type]
    with pytest.raises(Unavailable) as exc_info:
        await history.bars(INSTRUMENT, "1m", 0, MAX_MS, newest_first=True, limit=10)
    assert exc_info.value.reason == "CASSANDRA_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await history.trades(INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=True, limit=10)
