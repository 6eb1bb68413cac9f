"""Health that follows readiness checks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from meshkit.metrics import Metrics

_log = logging.getLogger(__name__)

READINESS_SECONDS = 1.0
READINESS_TIMEOUT_SECONDS = 5.0

Check = Callable[[], Awaitable[bool]]


class Readiness:
    """Keeps health equal to what the checks say."""

    def __init__(
        self,
        servicer: health.HealthServicer,
        names: Sequence[str],
        checks: Mapping[str, Check],
        metrics: Metrics,
    ) -> None:
        """`names` are the services whose health it is, `checks` by the names told in the log."""
        self._servicer, self._names, self._checks = servicer, names, checks
        self._ready = metrics.gauge("ready", "1 while all readiness checks pass")

    async def run(self) -> None:
        """Check for ever; log each change."""
        before: list[str] | None = None
        while True:
            failing = [name for name in self._checks if not await self._passes(name)]
            if failing != before:
                await self._set(failing)
                before = failing
            await asyncio.sleep(READINESS_SECONDS)

    async def _set(self, failing: list[str]) -> None:
        response = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._servicer.set(name, response.NOT_SERVING if failing else response.SERVING)
        self._ready.set(0 if failing else 1)
        if failing:
            _log.warning("not ready: %s", ", ".join(failing))
        else:
            _log.info("ready")

    async def _passes(self, name: str) -> bool:
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, and `run` would go on.
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                return await self._checks[name]()
        except Exception as error:
            _log.debug("readiness check %s failed: %r", name, error)
            return False
