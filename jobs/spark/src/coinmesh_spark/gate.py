"""Stops a query between two batches: killed tasks would terminate their workers."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class GateClosedError(Exception):
    """The query is being stopped; the batch is run at its next start."""


class Gate:
    """Entered by each batch; closed while the query is being stopped."""

    def __init__(self) -> None:
        self._batch = threading.Lock()
        self._closed = False

    @contextmanager
    def open(self) -> Generator[None]:
        """Enter the gate for a batch.

        Raises:
            GateClosedError: No batch may start now.
        """
        with self._batch:
            if self._closed:
                raise GateClosedError("the query is being stopped; its batch is run again")
            yield

    @contextmanager
    def closed(self, patience: float) -> Generator[None]:
        """Close the gate; wait for the running batch, at most `patience` seconds."""
        self._closed = True
        try:
            if self._batch.acquire(timeout=patience):
                self._batch.release()
            yield
        finally:
            self._closed = False
