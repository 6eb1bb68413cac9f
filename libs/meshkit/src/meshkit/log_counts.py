"""The number of warnings and errors in a process's log, as a metric."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from meshkit.logs import level_name
from meshkit.metrics import Metrics

LEVELS = ("WARNING", "ERROR", "CRITICAL")


@contextmanager
def counted(metrics: Metrics) -> Generator[None]:
    """Count log records as `coinmesh_log_records_total{level}` while the context is active."""
    handler = _Counter(logging.WARNING)
    metrics.read_counter(
        "log_records", "Warnings and errors in the log", ("level",), handler.counts.copy
    )
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Counter(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        # Every level has its series from the start, so that the first error is an increase.
        self.counts: dict[tuple[str, ...], int] = {(name,): 0 for name in LEVELS}

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[level_name(record.levelno),] += 1
