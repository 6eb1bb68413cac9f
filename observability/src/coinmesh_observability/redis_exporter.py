"""Metrics of Redis from INFO: the command `coinmesh-redis-exporter`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from meshkit.metrics import Metrics
from meshkit.redis_options import redis_options
from meshkit.service import configure, run, serve
from meshkit.settings import RedisSettings, ServiceSettings

TIMEOUT_SECONDS: Final = 2.0
#: INFO's field → metric, as described by https://redis.io/docs/latest/commands/info.
GAUGES: Final = {
    "connected_clients": "connected_clients",
    "used_memory": "memory_used_bytes",
    "maxmemory": "memory_max_bytes",
    "uptime_in_seconds": "uptime_seconds",
}
COUNTERS: Final = {
    "total_commands_processed": "commands_processed",
    "keyspace_hits": "keyspace_hits",
    "keyspace_misses": "keyspace_misses",
    "evicted_keys": "evicted_keys",
    "expired_keys": "expired_keys",
    "rejected_connections": "rejected_connections",
}


class ExporterSettings(ServiceSettings, RedisSettings):
    """Settings of the exporter."""


class RedisInfo(Collector):
    """Query Redis on each scrape, over a new connection with the current credentials."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def describe(self) -> Iterator[Metric]:
        """Return nothing: registration doesn't query Redis."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the current values; only `redis_up` while Redis is unreachable."""
        try:
            found = self._ask()
        except (RedisError, OSError):
            yield GaugeMetricFamily("redis_up", "1 while Redis answers", 0)
            return
        yield GaugeMetricFamily("redis_up", "1 while Redis answers", 1)
        for field, name in GAUGES.items():
            yield GaugeMetricFamily(f"redis_{name}", f"INFO's {field}", found[field])
        for field, name in COUNTERS.items():
            yield CounterMetricFamily(f"redis_{name}", f"INFO's {field}", found[field])

    def _ask(self) -> dict[str, Any]:
        with Redis.from_url(
            self._settings.redis_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            **redis_options(self._settings),
        ) as client:
            return client.info()


async def export(settings: ExporterSettings) -> int:
    """Run the exporter until shutdown and return the exit status."""
    metrics = Metrics()
    metrics.registry.register(RedisInfo(settings))
    return await serve(settings, metrics=metrics)


def main() -> None:
    """Run the command `coinmesh-redis-exporter`."""
    raise SystemExit(run(export(configure(ExporterSettings))))
