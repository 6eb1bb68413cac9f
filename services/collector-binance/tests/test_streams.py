"""Streams on sockets without a network: subscriptions, their failures, silence and pauses."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.connections import CLOSED, REJECTED
from coinmesh_sources.inputs import Input
from coinmesh_sources.websocket import Socket
from collector_binance import streams as streams_module
from collector_binance.settings import CollectorSettings
from collector_binance.streams import Streams
from meshkit.metrics import Metrics


class FakeSocket(Socket):
    """A socket that passes what is sent to the exchange."""

    def __init__(self, exchange: "Exchange", name: str) -> None:
        super().__init__(lambda *_: None)
        self._exchange, self._name = exchange, name

    def send(self, text: bytes) -> None:
        self._exchange.on_control(self._name, json.loads(text))

    def pause(self, paused: bool) -> None:
        self.is_paused = paused


class Exchange:
    """Answers control messages at once: with `error` once it is set, not while it is silent."""

    def __init__(self) -> None:
        self.streams: Streams
        self.inputs: list[Input] = []
        self.messages: list[tuple[str, str, list[str]]] = []
        self.errors: list[dict[str, Any]] = []
        self.unanswered: list[tuple[str, int]] = []
        self.is_silent = False
        self.opened: list[FakeSocket] = []

    async def connect(self, url: str, on_message: object, context: object) -> FakeSocket:
        del url, on_message, context
        socket = FakeSocket(self, f"binance/s/{len(self.opened) + 1}")
        self.opened.append(socket)
        return socket

    def on_control(self, name: str, message: dict[str, Any]) -> None:
        self.messages.append((name, message["method"], message["params"]))
        if self.is_silent:
            self.unanswered.append((name, message["id"]))
        else:
            self.answer(name, message["id"], self.errors.pop(0) if self.errors else None)

    def answer(self, name: str, number: int, error: dict[str, Any] | None = None) -> None:
        reply = {"id": number, **({"result": None} if error is None else {"error": error})}
        self.streams.on_reply(name, json.dumps(reply).encode())

    def ends(self) -> list[tuple[str, str]]:
        """Connection and reason of each DISCONNECT."""
        kind = FrameKind.FRAME_KIND_DISCONNECT
        return [(each.connection, each.context) for each in self.inputs if each.kind == kind]


@pytest.fixture
async def exchange(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Exchange]:
    """An exchange with running streams."""
    exchange = Exchange()
    monkeypatch.setattr(streams_module, "connect", exchange.connect)
    monkeypatch.setattr(streams_module, "SECONDS_PER_MESSAGE", 0.0)
    settings = CollectorSettings(
        kafka_bootstrap_servers="127.0.0.1:9",
        schema_registry_url="http://127.0.0.1:9",
        binance_mtls=False,
    )
    exchange.streams = Streams(
        settings, "binance/s", exchange.inputs.append, lambda *_: None, Metrics()
    )
    yield exchange
    await exchange.streams.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nothing notifies)
            await asyncio.sleep(0)


def carried(exchange: Exchange) -> dict[str, set[str]]:
    """The symbols of each open connection."""
    return {
        name: {stream.partition("@")[0] for stream in connection.streams}
        for name, connection in exchange.streams.open.items()
    }


@pytest.mark.parametrize("method", ["add", "remove"])
async def test_rejected_change_is_repaired_by_the_next_connection(
    exchange: Exchange, method: str
) -> None:
    streams = exchange.streams
    await streams.add(["A", "B"])
    await until(lambda: streams.is_live)
    exchange.errors.append({"code": 4, "msg": "Too many subscriptions"})
    await (streams.add(["C"]) if method == "add" else streams.remove("B"))
    assert exchange.ends() == [("binance/s/1", REJECTED)]
    expected = {"a", "b", "c"} if method == "add" else {"a"}
    await until(lambda: carried(exchange) == {"binance/s/2": expected})


async def test_connection_that_rejects_its_symbols_is_retried(exchange: Exchange) -> None:
    exchange.errors += [{"code": 2, "msg": "bad request"}] * 2
    await exchange.streams.add(["A"])
    await until(lambda: exchange.streams.is_live)
    assert carried(exchange) == {"binance/s/3": {"a"}}
    assert {reason for _, reason in exchange.ends()} == {REJECTED}


async def test_closed_streams_are_no_failure(exchange: Exchange) -> None:
    await exchange.streams.add(["A"])
    await until(lambda: exchange.streams.is_live)
    await exchange.streams.close()
    assert exchange.ends() == [("binance/s/1", CLOSED)]


@pytest.mark.parametrize("is_paused", [True, False])
async def test_reply_that_is_late_because_reading_pauses_ends_no_connection(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, is_paused: bool
) -> None:
    streams = exchange.streams
    await streams.add(["A"])
    await until(lambda: streams.is_live)
    (connection,) = streams.open.values()
    monkeypatch.setattr(streams_module, "REPLY_SECONDS", 0.02)
    exchange.is_silent = True
    streams.pause(is_paused)
    adding = asyncio.create_task(streams.add(["B"]))
    await asyncio.wait({adding}, timeout=0.1)
    assert adding.done() is not is_paused
    if is_paused:
        streams.pause(False)
        exchange.answer(*exchange.unanswered.pop())
    await adding
    assert bool(exchange.ends()) is not is_paused
    assert connection.replies == {}


async def test_silence_is_measured_by_a_clock_that_nobody_sets(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = exchange.streams
    await streams.add(["A"])
    await until(lambda: streams.is_live)
    (connection,) = streams.open.values()
    now = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1e12)
        patch.setattr(time, "time_ns", lambda: 10**21)
        assert not streams.is_stalled(connection)
        patch.setattr(time, "monotonic", lambda: now + 61)
        assert streams.is_stalled(connection)
        assert not streams.is_stalled(connection, patience=2.0)
        streams.pause(True)
        assert not streams.is_stalled(connection)
