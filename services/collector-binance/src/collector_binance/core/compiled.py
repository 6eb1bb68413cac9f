"""The compiled core, where it was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast


def load() -> type[Fast] | None:
    """The compiled core for `Engine(fast=)`; None where there was no compiler to build it with."""
    try:
        from collector_binance.core._fast import Fast
    except ModuleNotFoundError:
        return None
    return Fast
