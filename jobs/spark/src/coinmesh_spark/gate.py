"""Lets a query be stopped between two batches: killed tasks take their workers with them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager


class GateClosedError(Exception):
    """The query is about to be stopped; the batch is run at its next start."""


class Gate:
    """What each batch passes; closed while the query is stopped."""

    def __init__(self) -> None:
        self._batch = threading.Lock()
        self._closed = False

    @contextmanager
    def open(self) -> Generator[None]:
        """Around a batch.

        Raises:
            GateClosedError: None may begin now.
        """
        with self._batch:
            if self._closed:
                raise GateClosedError("the query is being stopped; its batch is run again")
            yield

    @contextmanager
    def closed(self, patience: float) -> Generator[None]:
        """Begins when the batch that runs has ended or `patience` seconds are over."""
        self._closed = True
        try:
            if self._batch.acquire(timeout=patience):
                self._batch.release()
            yield
        finally:
            self._closed = False
