"""Health that follows the readiness of a service's resources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from meshkit.metrics import Metrics
from meshkit.resources import Resource

_log = logging.getLogger(__name__)

READINESS_SECONDS = 1.0
READINESS_TIMEOUT_SECONDS = 5.0


class Readiness:
    """Keeps health equal to whether all resources are ready."""

    def __init__(
        self,
        servicer: health.HealthServicer,
        names: Sequence[str],
        resources: Sequence[Resource],
        metrics: Metrics,
    ) -> None:
        """`names` are the services whose health follows the resources."""
        self._servicer, self._names, self._resources = servicer, names, resources
        self._ready = metrics.gauge("ready", "1 while all readiness checks pass")

    async def run(self) -> None:
        """Check for ever; log each change."""
        before: list[str] | None = None
        while True:
            failing = [
                type(resource).__name__
                for resource in self._resources
                if not await self._passes(resource)
            ]
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

    async def _passes(self, resource: Resource) -> bool:
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, and `run` would go on.
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                return await resource.is_ready()
        except Exception as error:
            name = type(resource).__name__
            _log.debug("readiness check of %s failed: %r", name, error)
            return False
