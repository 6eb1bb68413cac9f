"""Slots: opening, replacement and loss of connections, and how long silence is borne."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from picows import WSError

from coinmesh_sources import slots
from coinmesh_sources.connections import CLOSED, STALLED, Connection, ReplyError
from coinmesh_sources.slots import Slot
from coinmesh_sources.websocket import Socket
from meshkit.backoff import Backoff


class Carrier:
    """Connections without a network; `opening` is done when the test lets them open."""

    def __init__(self) -> None:
        self.opening: asyncio.Queue[Connection | Exception] = asyncio.Queue()
        self.align_error: Exception | None = None
        self.ended: list[tuple[str, str]] = []
        self.aligned: list[list[str]] = []
        self.stalled = False
        self.patience: list[float] = []
        self.requested: asyncio.Queue[list[str]] = asyncio.Queue()

    async def connect(self, symbols: list[str]) -> Connection:
        self.requested.put_nowait(symbols)
        opened = await self.opening.get()
        if isinstance(opened, Exception):
            raise opened
        return opened

    async def align(self, connection: Connection, symbols: list[str]) -> None:
        self.aligned.append(list(symbols))
        error, self.align_error = self.align_error, None
        if error is not None:
            raise error

    def is_stalled(self, connection: Connection, patience: float) -> bool:
        self.patience.append(patience)
        return self.stalled

    def end(self, connection: Connection, reason: str) -> None:
        self.ended.append((connection.name, reason))


def connection(name: str) -> Connection:
    socket: Any = Socket(lambda *_: None)
    return Connection(name, "ws://x", socket, datetime.now(UTC), time.monotonic() + 1000)


async def test_symbol_added_while_connecting_is_subscribed() -> None:
    carrier = Carrier()
    slot = Slot(carrier)
    slot.symbols = ["A"]
    running = asyncio.create_task(slot.run())
    assert await carrier.requested.get() == ["A"]
    # `AddSubscription` finds no connection yet.
    slot.symbols.append("B")
    carrier.opening.put_nowait(connection("c/1"))
    while not slot.subscribed:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0)
    assert carrier.aligned == [["A", "B"]]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_connection_that_never_spoke_doubles_the_patience() -> None:
    carrier = Carrier()
    carrier.stalled = True
    slot = Slot(carrier)
    slot.symbols = ["A"]
    running = asyncio.create_task(slot.run())
    for number in range(2):
        await carrier.requested.get()
        carrier.opening.put_nowait(connection(f"c/{number}"))
    while len(carrier.ended) < 2:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    assert carrier.patience == [1.0, 2.0]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def carrier(monkeypatch: pytest.MonkeyPatch) -> Carrier:
    """A carrier whose slots neither back off nor keep two connections for long."""

    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(slots, "Backoff", functools.partial(Backoff, sleep=no_sleep))
    monkeypatch.setattr(slots, "OVERLAP_SECONDS", 0.0)
    monkeypatch.setattr(slots, "LOOK_SECONDS", 0.01)
    return Carrier()


@pytest.fixture
async def slot(carrier: Carrier) -> AsyncIterator[Slot]:
    """A running slot of one symbol."""
    slot = Slot(carrier)
    slot.symbols = ["A"]
    running = asyncio.create_task(slot.run())
    yield slot
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)


async def opened(carrier: Carrier, slot: Slot, name: str) -> Connection:
    """Let the slot open its next connection."""
    await carrier.requested.get()
    new = connection(name)
    carrier.opening.put_nowait(new)
    await until(lambda: slot.subscribed and slot.connections == [new])
    return new


@pytest.mark.parametrize(
    "error", [OSError("refused"), WSError("handshake"), TimeoutError(), ReplyError("refused")]
)
async def test_failed_connect_is_retried(carrier: Carrier, slot: Slot, error: Exception) -> None:
    carrier.opening.put_nowait(error)
    await carrier.requested.get()
    assert not slot.subscribed
    await opened(carrier, slot, "c/1")
    assert carrier.ended == []


async def test_connection_that_cannot_be_aligned_is_dropped(carrier: Carrier, slot: Slot) -> None:
    carrier.align_error = ReplyError("too many streams")
    await carrier.requested.get()
    carrier.opening.put_nowait(connection("c/1"))
    await opened(carrier, slot, "c/2")
    assert carrier.ended == [("c/1", "too many streams")]


async def test_lost_connection_is_replaced(carrier: Carrier, slot: Slot) -> None:
    lost = await opened(carrier, slot, "c/1")
    lost.socket.ended.set_result("reset by peer")
    await until(lambda: carrier.ended)
    assert carrier.ended == [("c/1", "reset by peer")]
    assert (slot.subscribed, slot.connections) == (False, [])
    await opened(carrier, slot, "c/2")


@pytest.mark.parametrize("is_announced", [True, False], ids=["shutdown", "age"])
async def test_new_connection_is_open_before_the_old_is_closed(
    carrier: Carrier, slot: Slot, is_announced: bool
) -> None:
    old = await opened(carrier, slot, "c/1")
    if is_announced:
        old.shutdown.set()
    else:
        old.expires = 0.0
    await carrier.requested.get()
    assert (slot.subscribed, slot.connections, carrier.ended) == (True, [old], [])
    new = connection("c/2")
    carrier.opening.put_nowait(new)
    await until(lambda: carrier.ended)
    assert carrier.ended == [("c/1", CLOSED)]
    assert carrier.aligned == [["A"], ["A"]]
    assert (slot.subscribed, slot.connections) == (True, [new])


async def test_old_connection_is_kept_while_no_new_one_opens(carrier: Carrier, slot: Slot) -> None:
    old = await opened(carrier, slot, "c/1")
    old.shutdown.set()
    for _ in range(3):
        await carrier.requested.get()
        carrier.opening.put_nowait(OSError("refused"))
    await carrier.requested.get()
    assert (slot.subscribed, slot.connections, carrier.ended) == (True, [old], [])


async def test_connection_lost_during_replacement_is_reported(carrier: Carrier, slot: Slot) -> None:
    old = await opened(carrier, slot, "c/1")
    old.shutdown.set()
    await carrier.requested.get()
    old.socket.ended.set_result("closed by the exchange")
    carrier.opening.put_nowait(OSError("refused"))
    await carrier.requested.get()
    assert carrier.ended == [("c/1", "closed by the exchange")]
    assert (slot.subscribed, slot.connections) == (False, [])


async def test_stall_after_messages_resets_the_patience(carrier: Carrier, slot: Slot) -> None:
    carrier.stalled = True
    for number in range(3):
        await carrier.requested.get()
        stalled = connection(f"c/{number}")
        stalled.socket.messages = 5 if number == 1 else 0
        carrier.opening.put_nowait(stalled)
        await until(lambda count=number: len(carrier.ended) > count)
    assert carrier.patience == [1.0, 2.0, 1.0]
    assert {reason for _, reason in carrier.ended} == {STALLED}


async def test_messages_end_the_patience_with_a_quiet_market(carrier: Carrier, slot: Slot) -> None:
    carrier.stalled = True
    for number in range(5):
        await carrier.requested.get()
        carrier.opening.put_nowait(connection(f"c/{number}"))
        await until(lambda count=number: len(carrier.ended) > count)
    assert carrier.patience == [1.0, 2.0, 4.0, 8.0, 8.0]
    carrier.stalled = False
    carrier.patience.clear()
    current = await opened(carrier, slot, "c/5")
    current.socket.messages = 5
    await until(lambda: 1.0 in carrier.patience)
