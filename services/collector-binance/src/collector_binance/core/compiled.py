"""The compiled core, if it was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast


def load() -> type[Fast] | None:
    """Return the compiled core for `Engine(fast=)`; None if it was not built."""
    try:
        from collector_binance.core._fast import Fast
    except ModuleNotFoundError:
        return None
    return Fast
