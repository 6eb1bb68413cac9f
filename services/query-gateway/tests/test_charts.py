"""Kept charts."""

from typing import Any

import pytest

from meshkit.metrics import Metrics
from query_gateway import charts
from query_gateway.charts import Charts

READS = "coinmesh_chart_reads_total"


class MemoryCache:
    """A Redis that is a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.reads = 0

    async def get(self, key: str) -> bytes | None:
        self.reads += 1
        return self.kept.get(key)

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        self.kept[key] = value


async def test_a_chart_is_found_by_the_replica_that_made_it_and_by_others() -> None:
    redis: Any = MemoryCache()
    measured = Metrics()
    one, other = Charts(redis, 10), Charts(redis, 10)
    one.register(measured)
    await one.put("a", b"chart")
    assert await one.get("a") == b"chart"
    assert redis.reads == 0
    assert [await other.get("a") for _ in range(3)] == [b"chart"] * 3
    assert redis.reads == 1
    assert await one.get("b") is None
    found = {where: measured.value(READS, found=where) for where in ("process", "redis", "nowhere")}
    assert found == {"process": 1, "redis": 0, "nowhere": 1}


async def test_a_chart_is_kept_for_its_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    redis: Any = MemoryCache()
    now = [100.0]
    monkeypatch.setattr(charts.time, "monotonic", lambda: now[0])
    kept = Charts(redis, 10)
    await kept.put("a", b"chart")
    redis.kept.clear()
    now[0] = 109.9
    assert await kept.get("a") == b"chart"
    now[0] = 110.0
    assert await kept.get("a") is None


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MAX_BYTES", 1000)
    redis: Any = MemoryCache()
    kept = Charts(redis, 10)
    for number in range(50):
        await kept.put(str(number % 20), bytes(100))
    redis.kept.clear()
    found = [number for number in range(20) if await kept.get(str(number)) is not None]
    assert len(found) == 10
