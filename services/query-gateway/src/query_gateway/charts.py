"""Rendered charts, cached for seconds: in this process, and in Redis for all replicas.

A key contains the version of the chart's bars, so every cached copy is correct.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from meshkit.metrics import Metrics
from meshkit.resources import Resource
from query_gateway.cache import Cache

MAX_BYTES: Final = 32 << 20


class Charts(Resource):
    """Chart bytes by key.

    Args:
        cache: Redis.
        seconds: How long a chart is cached.
    """

    def __init__(self, cache: Cache, seconds: int) -> None:
        self._cache, self._seconds = cache, seconds
        self._own: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._reads = {"process": 0, "redis": 0, "nowhere": 0}

    def register(self, metrics: Metrics) -> None:
        """Add the counts of chart reads by location to the process's metrics."""
        metrics.read_counter(
            "chart_reads",
            "Charts asked for, by where they were found",
            ("found",),
            lambda: {(found,): count for found, count in self._reads.items()},
        )

    async def get(self, key: str) -> bytes | None:
        """Return a chart if it is cached."""
        known = self._own.get(key)
        if known is not None and time.monotonic() < known[0]:
            self._reads["process"] += 1
            return known[1]
        data = await self._cache.get(key)
        self._reads["nowhere" if data is None else "redis"] += 1
        if data is not None:
            # Redis may be about to expire it: it is cached here for at most one more period.
            self._keep(key, data)
        return data

    async def put(self, key: str, data: bytes) -> None:
        """Cache a chart."""
        self._keep(key, data)
        await self._cache.put(key, data, self._seconds)

    def _keep(self, key: str, data: bytes) -> None:
        old = self._own.pop(key, None)
        self._bytes += len(data) - (len(old[1]) if old else 0)
        self._own[key] = time.monotonic() + self._seconds, data
        while self._bytes > MAX_BYTES:
            _, (_, dropped) = self._own.popitem(last=False)
            self._bytes -= len(dropped)
