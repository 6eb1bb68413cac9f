"""What a service has beside its RPCs: connections, background work, state to flush at the end."""

from __future__ import annotations

from meshkit.calls import Call
from meshkit.errors import MeshError
from meshkit.metrics import Metrics


class Resource:
    """A part of a service whose life `serve` manages; subclasses override what they need.

    `serve` collects its metrics by `register`, runs `run` beside the server, reports the service
    ready while every `is_ready` holds, and at the end calls `on_stopping`, cancels `run`, and
    closes in reverse order, so that a resource outlives those that were built on it.
    """

    def register(self, metrics: Metrics) -> None:
        """Add the resource's metrics to the process's; called once, before `run`."""

    async def run(self) -> None:
        """Work beside the server; returns when there is nothing (more) to do.

        An error ends the process with status 1.
        """

    async def is_ready(self) -> bool:
        """Whether the service may receive requests, as far as this resource is concerned."""
        return True

    def on_stopping(self) -> None:
        """Draining begins: end long streams with a last message."""

    def on_denied(self, call: Call, denial: MeshError) -> None:
        """Authorization rejected a call."""

    async def close(self) -> None:
        """Flush and disconnect; called once RPCs and `run` have ended."""
