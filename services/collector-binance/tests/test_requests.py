"""Requests: what is sent first, what replaces what, and what waits for Kafka."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coinmesh_sources.recorder import MAX_INPUT_BYTES
from coinmesh_sources.requests import WORKERS, RequestQueue
from coinmesh_sources.rest import UNREACHABLE, Answer
from collector_binance.core.commands import FetchSnapshot, FetchTrades
from collector_binance.exchange import request
from meshkit.metrics import Metrics


class Exchange:
    """A REST client whose answers come when the test gives them."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[str, asyncio.Future[Answer]]] = asyncio.Queue()

    async def get(self, path: str, arguments: dict[str, Any], weight: int) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((f"{path} {arguments['symbol']}", answer))
        return await answer

    async def answered(self, body: bytes = b"{}") -> str:
        """Answer the next request; which one it was."""
        target, answer = await self.asked.get()
        answer.set_result(Answer(f"GET {target}", 200, body, 1, 1))
        return target


class Harness:
    def __init__(self) -> None:
        self.exchange = Exchange()
        self.inputs: list[Any] = []
        self.requests = RequestQueue(
            self.exchange,  # type: ignore[arg-type]
            "c/0",
            self.inputs.append,
            Metrics(),
        )

    def put(self, command: FetchSnapshot | FetchTrades) -> None:
        self.requests.put(request(command, 1000))


@pytest.fixture
async def harness() -> Harness:
    return Harness()


async def drained(harness: Harness, count: int) -> list[str]:
    running = asyncio.create_task(harness.requests.run())
    targets = [await harness.exchange.answered() for _ in range(count)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return targets


async def test_stale_book_goes_before_trades_before_first_snapshot(harness: Harness) -> None:
    harness.put(FetchSnapshot("FIRST", urgent=False))
    harness.put(FetchTrades("TRADES", 1, 10))
    harness.put(FetchSnapshot("STALE", urgent=True))
    targets = await drained(harness, 3)
    assert [target.split()[1] for target in targets] == ["STALE", "TRADES", "FIRST"]


async def test_urgent_snapshot_replaces_a_queued_one(harness: Harness) -> None:
    harness.put(FetchSnapshot("A", urgent=False))
    harness.put(FetchTrades("B", 1, 10))
    harness.put(FetchSnapshot("A", urgent=True))
    harness.put(FetchSnapshot("A", urgent=False))
    targets = await drained(harness, 2)
    assert targets == ["/api/v3/depth A", "/api/v3/historicalTrades B"]
    assert harness.exchange.asked.empty()


async def test_repairs_do_not_starve_a_first_snapshot(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trades are requested again and again; the snapshot's due time comes all the same."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    harness.put(FetchSnapshot("FIRST", urgent=False))
    now += 9
    for number in range(8):
        harness.put(FetchTrades(f"T{number}", 1, 10))
    monkeypatch.undo()
    targets = await drained(harness, 9)
    assert targets[0] == "/api/v3/depth FIRST"


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(0, 0.0), (1, 0.5), (3, 2.0), (7, 30.0), (1024, 30.0), (10**6, 30.0)]
)
async def test_repeated_request_is_delayed_up_to_half_a_minute(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, attempt: int, seconds: float
) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()

    def call_later(delay: float, callback: Callable[..., object], *args: object) -> Any:
        delays.append(delay)
        return loop.call_soon(callback, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_later", call_later)
        harness.put(FetchSnapshot("A", urgent=True, attempt=attempt))
    assert delays == ([seconds] if seconds else [])
    assert await drained(harness, 1) == ["/api/v3/depth A"]


async def test_nothing_is_requested_while_paused(harness: Harness) -> None:
    harness.requests.pause(True)
    harness.put(FetchTrades("A", 1, 10))
    running = asyncio.create_task(harness.requests.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert harness.exchange.asked.empty()
    harness.requests.pause(False)
    assert await harness.exchange.answered() == "/api/v3/historicalTrades A"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_unanswered_past_trades_leave_a_worker_for_snapshots(harness: Harness) -> None:
    """Their host may be down while the one of snapshots answers."""
    for number in range(WORKERS + 1):
        harness.put(FetchTrades(f"T{number}", 1, 10))
    running = asyncio.create_task(harness.requests.run())
    asked = [await harness.exchange.asked.get() for _ in range(WORKERS - 1)]
    harness.put(FetchSnapshot("STALE", urgent=True))
    async with asyncio.timeout(60):
        assert await harness.exchange.answered() == "/api/v3/depth STALE"
    assert harness.exchange.asked.empty()
    for target, answer in asked:
        answer.set_result(Answer(f"GET {target}", 200, b"[]", 1, 1))
    late = [await harness.exchange.answered() for _ in range(2)]
    assert late == ["/api/v3/historicalTrades T3", "/api/v3/historicalTrades T4"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_answer_that_kafka_does_not_take_is_replaced_by_its_size(harness: Harness) -> None:
    harness.put(FetchTrades("A", 1, 10))
    running = asyncio.create_task(harness.requests.run())
    await harness.exchange.answered(b"x" * (MAX_INPUT_BYTES + 1))
    while not harness.inputs:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    (given,) = harness.inputs
    assert (given.status, given.payload) == (UNREACHABLE, b"the answer has 3670017 bytes")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
