"""Default deadline of unary calls: a call without one can't hold resources indefinitely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

from meshkit.calls import Call, Layer
from meshkit.errors import DeadlineExceeded


def deadline_layer(default_seconds: float) -> Layer:
    """Limit unary calls without a deadline to `default_seconds`.

    Streams have no limit, and gRPC enforces a caller's own deadline.
    """

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        remaining = cast(float | None, call.context.time_remaining())
        if not call.is_unary or remaining is not None:
            yield
            return
        limit = asyncio.timeout(default_seconds)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise  # raised by the handler itself
            raise DeadlineExceeded(
                "DEFAULT_DEADLINE_EXCEEDED",
                f"{call.method} took longer than {default_seconds:g} s, the limit of a call "
                "without a deadline; set a longer deadline or ask for less",
                method=call.method,
                seconds=default_seconds,
            ) from None

    return layer
