"""Redis cache: latest values, leaderboards and chart bytes. Its data may be lost at any time.

Redis never holds the only copy, and every request can be answered without it. Latest values carry a
version that a script compares, so an older value never replaces a newer one, whichever replica
writes it. Versions are fixed-width digits compared as text, because Lua's numbers lose digits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from meshkit.metrics import Metrics
from meshkit.redis_options import redis_options
from meshkit.resources import Resource
from meshkit.settings import RedisSettings
from meshkit.tracing import Tracing

_log = logging.getLogger(__name__)
T = TypeVar("T")
TIMEOUT_SECONDS: Final = 0.5
REST_SECONDS: Final = 1.0
"""Time after a failure without requests to Redis, so that callers don't each wait for it."""
_BATCH: Final = 200
_SENTINEL: Final = "cm:alive"

# KEYS: the sentinel, then hashes; ARGV: version and data of each. Returns whether Redis kept its
# data.
_OFFER: Final = """
local kept = redis.call('EXISTS', KEYS[1])
redis.call('SET', KEYS[1], '1')
for i = 2, #KEYS do
  local known = redis.call('HGET', KEYS[i], 'version')
  if not known or known < ARGV[2 * i - 3] then
    redis.call('HSET', KEYS[i], 'version', ARGV[2 * i - 3], 'data', ARGV[2 * i - 2])
  end
end
return kept
"""
# KEYS: sorted set, hash of exact values; ARGV: version, then instrument, score, value of each.
_RANK: Final = """
local known = redis.call('HGET', KEYS[2], '')
if known and known > ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[2], '', ARGV[1])
for i = 2, #ARGV, 3 do
  redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
end
return 1
"""
# KEYS: as _RANK; ARGV: the limit, and REV for the highest first. Returns members and exact values
# alternately.
_TOP: Final = """
local order = ARGV[2] == '' and {} or {ARGV[2]}
local found = {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, unpack(order))) do
  found[#found + 1] = member
  found[#found + 1] = redis.call('HGET', KEYS[2], member)
end
return found
"""


class _Pool(ConnectionPool):
    """A pool that does not check connections before use.

    The check costs as much as a GET; a broken connection is detected when it is used, and the
    request is retried once.
    """

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Open a connection that isn't open."""
        await connection.connect()


class Versioned(NamedTuple):
    """A latest value to write."""

    key: str
    version: str
    data: bytes


class Cache(Resource):
    """Redis client; no method raises because Redis is down."""

    def __init__(self, settings: RedisSettings, tracing: Tracing) -> None:
        options = redis_options(settings)
        pool = _Pool.from_url(settings.redis_url, retry=Retry(NoBackoff(), 1), **options)
        self._redis: Redis = Redis.from_pool(pool)
        self._tracing = tracing
        self._resting_until = 0.0
        self._failures = 0
        self._up = False

    def register(self, metrics: Metrics) -> None:
        """Add Redis' state to the process's metrics."""
        metrics.read_counter(
            "redis_failures", "Requests that Redis failed", (), lambda: {(): self._failures}
        )
        metrics.read_gauge("redis_up", "1 while Redis answers", (), lambda: {(): self._up})

    async def get(self, key: str) -> bytes | None:
        """Return a cached value; None if there is none or Redis is down."""
        return cast(bytes | None, await self._try("GET", lambda: self._redis.get(key)))

    async def put(self, key: str, value: bytes, seconds: int) -> None:
        """Cache a value for some seconds."""
        await self._try("SET", lambda: self._redis.set(key, value, ex=seconds))

    async def offer(self, values: Sequence[Versioned]) -> bool:
        """Write latest values; return False if Redis is down or has lost its data."""
        kept = True
        for start in range(0, len(values) or 1, _BATCH):
            batch = values[start : start + _BATCH]
            keys = [_SENTINEL, *(value.key for value in batch)]
            arguments = [part for value in batch for part in (value.version, value.data)]
            call = partial(self._redis.eval, _OFFER, len(keys), *keys, *arguments)
            kept = bool(await self._try("EVAL offer", call)) and kept
        return kept

    async def latest(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the data of latest values; None for a missing value."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            pipeline = self._redis.pipeline(transaction=False)
            for key in batch:
                pipeline.hget(key, "data")
            answer = await self._try("HGET", pipeline.execute)
            found += cast("list[bytes | None]", answer) if answer else [None] * len(batch)
        return found

    async def rank(self, name: str, version: str, ranking: Sequence[tuple[str, str]]) -> None:
        """Write a leaderboard: a sorted set, and the exact values."""
        arguments = [part for member, value in ranking for part in (member, value, value)]
        keys = leaderboard_keys(name)
        await self._try("EVAL rank", lambda: self._redis.eval(_RANK, 2, *keys, version, *arguments))

    async def ranking(self, name: str, limit: int, *, highest: bool) -> list[tuple[str, str]]:
        """Return a leaderboard's first instruments and their exact values, if there is one."""
        keys, order = leaderboard_keys(name), "REV" if highest else ""
        answer = await self._try(
            "EVAL top", lambda: self._redis.eval(_TOP, 2, *keys, str(limit), order)
        )
        texts = [item.decode() for item in cast("list[bytes]", answer or [])]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _try(self, operation: str, call: Any) -> object:
        if time.monotonic() < self._resting_until:
            return None
        try:
            with self._tracing.asking("redis", operation):
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    answer = await cast(Awaitable[object], call())
        except (RedisError, OSError, TimeoutError) as error:
            self._failures += 1
            self._up = False
            if not self._resting_until:
                _log.warning("Redis doesn't answer (%s); going on without it", error)
            self._resting_until = time.monotonic() + REST_SECONDS
            return None
        if self._resting_until:
            _log.info("Redis answers again")
        self._resting_until = 0.0
        self._up = True
        return answer


def latest_key(kind: str, instrument: str) -> str:
    """Return the key of a latest value."""
    return f"cm:latest:{kind}:{instrument}"


def leaderboard_keys(name: str) -> tuple[str, str]:
    """Return the keys of a leaderboard's sorted set and exact values."""
    return f"cm:leaderboard:{name}", f"cm:leaderboard:{name}:values"
