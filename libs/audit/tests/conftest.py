"""Fixture to wait for a condition."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Return a function that waits until a condition holds; the test's timeout is the limit."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        while not await condition():  # noqa: ASYNC110 - the condition is set by another task
            await asyncio.sleep(0.01)

    return wait
