"""Health status that follows the readiness of a service's resources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from meshkit.metrics import Metrics
from meshkit.resources import Resource

_log = logging.getLogger(__name__)

READINESS_SECONDS = 1.0
READINESS_TIMEOUT_SECONDS = 5.0

OnChange = Callable[[bool], Awaitable[None]]


class Readiness:
    """Whether all resources are ready, as of the last check: `ready`."""

    def __init__(self, resources: Sequence[Resource], metrics: Metrics) -> None:
        self._resources = resources
        self._gauge = metrics.gauge("ready", "1 while all readiness checks pass")
        self.ready = False

    async def run(self, on_change: OnChange | None = None) -> None:
        """Check indefinitely; log each change and report it to `on_change`."""
        before: list[str] | None = None
        while True:
            failing = [
                type(resource).__name__
                for resource in self._resources
                if not await self._passes(resource)
            ]
            if failing != before:
                self.ready = not failing
                self._gauge.set(self.ready)
                if on_change is not None:
                    await on_change(self.ready)
                if failing:
                    _log.warning("not ready: %s", ", ".join(failing))
                else:
                    _log.info("ready")
                before = failing
            await asyncio.sleep(READINESS_SECONDS)

    async def _passes(self, resource: Resource) -> bool:
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation, and `run` would continue.
            async with asyncio.timeout(READINESS_TIMEOUT_SECONDS):
                return await resource.is_ready()
        except Exception as error:
            name = type(resource).__name__
            _log.debug("readiness check of %s failed: %r", name, error)
            return False
