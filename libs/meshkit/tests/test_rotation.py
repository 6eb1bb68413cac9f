"""Channels that are replaced when their certificate is renewed."""

import asyncio
from typing import Any

import pytest

from meshkit.rotation import RotatingChannel


class Channel:
    """A channel that is ready when the test sets it."""

    def __init__(self) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.awaited, self.closed = asyncio.Event(), False

    async def channel_ready(self) -> None:
        self.awaited.set()
        await self.ready

    async def close(self, grace: float | None = None) -> None:
        self.closed = True


@pytest.mark.parametrize("steps", range(4))
async def test_close_ends_the_watcher_when_the_new_channel_is_just_ready(steps: int):
    """`asyncio.wait_for` of Python 3.11 loses a cancellation that comes with the result."""
    channels: list[Channel] = []
    versions = iter(range(100))

    def connect() -> Any:
        channels.append(Channel())
        return channels[-1]

    rotating = RotatingChannel(connect, lambda: next(versions), check_seconds=0)
    while len(channels) < 2:  # noqa: ASYNC110 - the watcher has begun to replace it
        await asyncio.sleep(0)
    await channels[1].awaited.wait()
    channels[1].ready.set_result(None)
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await rotating.close()
    assert channels[1].closed
