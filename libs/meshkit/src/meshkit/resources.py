"""Parts of a service other than its RPCs: connections, background work, state to flush at exit."""

from __future__ import annotations

from meshkit.calls import Call
from meshkit.errors import MeshError
from meshkit.metrics import Metrics


class Resource:
    """A part of a service whose lifecycle `serve` manages; subclasses override what they need.

    `serve` registers its metrics with `register`, executes `run` in parallel with the server,
    reports the service ready while every `is_ready` returns True, and at shutdown calls
    `on_stopping`, cancels `run`, and closes resources in reverse order, so that a resource is
    closed after those that use it.
    """

    def register(self, metrics: Metrics) -> None:
        """Add the resource's metrics to the process's; called once, before `run`."""

    async def run(self) -> None:
        """Work in parallel with the server; return if there is nothing (more) to do.

        An error terminates the process with status 1.
        """

    async def is_ready(self) -> bool:
        """Return whether this resource allows the service to receive requests."""
        return True

    def on_stopping(self) -> None:
        """Handle the start of draining: end long streams with a last message."""

    def on_denied(self, call: Call, denial: MeshError) -> None:
        """Handle a call that authorization rejected."""

    async def close(self) -> None:
        """Flush and disconnect; called after RPCs and `run` have ended."""
