"""Slots: what changes while a connection is being opened, and how long silence is borne."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from collector_binance.links import Connection
from collector_binance.slots import Slot
from collector_binance.transport import Socket


class Carrier:
    """Connections without a network; `opening` is done when the test lets them open."""

    def __init__(self) -> None:
        self.opening: asyncio.Queue[Connection] = asyncio.Queue()
        self.ended: list[tuple[str, str]] = []
        self.aligned: list[list[str]] = []
        self.stalled = False
        self.patience: list[float] = []
        self.requested: asyncio.Queue[list[str]] = asyncio.Queue()

    async def connect(self, symbols: list[str]) -> Connection:
        self.requested.put_nowait(symbols)
        return await self.opening.get()

    async def align(self, connection: Connection, symbols: list[str]) -> None:
        self.aligned.append(list(symbols))

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
