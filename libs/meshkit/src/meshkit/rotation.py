"""A client channel that is replaced after its certificate is renewed.

grpcio can't reload client certificates (grpc/grpc#15735), so a new channel is opened, awaited until
ready, and swapped in; the old one is closed after its calls have ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.aio

_log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
READY_SECONDS = 10.0
OLD_CHANNEL_GRACE_SECONDS = 60.0


async def follow(
    version: Callable[[], object], on_change: Callable[[], None], check_seconds: float | None = None
) -> None:
    """Call `on_change` now and each time `version` differs, until cancelled; log its errors."""
    known: object = None
    while True:
        try:
            seen = version()
            if seen != known:
                on_change()
                known = seen
        except Exception:
            _log.exception("can't use the renewed certificate; trying again")
        await asyncio.sleep(CHECK_SECONDS if check_seconds is None else check_seconds)


class Renewals:
    """Detects certificate renewals for a client that must be replaced to use the new files.

    librdkafka reads its certificate only at creation (confluentinc/librdkafka#3180). `version`
    returns a value that changes with the files; None without files.
    """

    def __init__(self, version: Callable[[], object] | None) -> None:
        self._version = version
        self._used = version() if version else None
        self._next = 0.0

    def pending(self) -> object | None:
        """Return the version to use next, None if it is in use; checks at a limited rate."""
        now = time.monotonic()
        if self._version is None or now < self._next:
            return None
        self._next = now + CHECK_SECONDS
        try:
            seen = self._version()
        except Exception:
            _log.exception("can't find the renewed certificate; the old one stays in use")
            return None
        return None if seen == self._used else seen

    def taken(self, version: object) -> None:
        """Set the version of the client that is in use."""
        self._used = version
        _log.info("client certificate renewed")


class RotatingChannel(grpc.aio.Channel):
    """A channel whose stubs keep working after it is replaced.

    `connect` opens a channel with the current files; `version` returns a value that changes with
    them.
    """

    def __init__(
        self,
        connect: Callable[[], grpc.aio.Channel],
        version: Callable[[], object],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._connect, self._version, self._check_seconds = connect, version, check_seconds
        self._used = version()
        self._current = connect()
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="certificates")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._check_seconds)
            try:
                await self.rotate_if_renewed()
            except Exception:
                _log.exception("can't use the renewed client certificate; trying again")

    async def rotate_if_renewed(self) -> bool:
        """Replace the channel if the files changed; return whether it was replaced.

        If the server can't be reached, the old channel is kept and the next check retries.
        """
        version = self._version()
        if version == self._used:
            return False
        fresh = self._connect()
        try:
            async with asyncio.timeout(READY_SECONDS):
                await fresh.channel_ready()
        except BaseException:
            await fresh.close()
            raise
        old, self._current, self._used = self._current, fresh, version
        # The new channel is open before the old one closes, so that gRPC's engine isn't torn down.
        task = asyncio.create_task(old.close(OLD_CHANNEL_GRACE_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        _log.info("client certificate renewed")
        return True

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; running calls get `grace` seconds."""
        self._watcher.cancel()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(self._watcher, *self._closing, return_exceptions=True)
        await self._current.close(grace)

    async def __aenter__(self) -> RotatingChannel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the current channel's state."""
        return self._current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the current channel's state differs."""
        await self._current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the current channel is connected."""
        await self._current.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for the method that uses the current channel."""
        return _Rotating(self, "unary_unary", method, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for the method that uses the current channel."""
        return _Rotating(self, "unary_stream", method, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for the method that uses the current channel."""
        return _Rotating(self, "stream_unary", method, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for the method that uses the current channel."""
        return _Rotating(self, "stream_stream", method, args, kwargs)

    @property
    def current(self) -> grpc.aio.Channel:
        """Return the channel in use."""
        return self._current


class _Rotating:
    """A multicallable that is recreated on each new channel."""

    def __init__(
        self,
        owner: RotatingChannel,
        kind: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._owner, self._kind, self._method = owner, kind, method
        self._args, self._kwargs = args, kwargs
        self._channel: grpc.aio.Channel | None = None
        self._callable: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel = self._owner.current
        if self._callable is None or channel is not self._channel:
            make = getattr(channel, self._kind)
            self._callable = cast(
                Callable[..., Any], make(self._method, *self._args, **self._kwargs)
            )
            self._channel = channel
        return self._callable(*args, **kwargs)
