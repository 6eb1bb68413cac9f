"""What unit tests share: the exchange's REST and its streams without a network."""

import asyncio
import functools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources import rest
from coinmesh_sources.inputs import Input
from coinmesh_sources.rest import Answer, Budget
from coinmesh_sources.websocket import Socket
from collector_binance import streams as streams_module
from collector_binance.settings import CollectorSettings
from collector_binance.streams import Streams
from meshkit.backoff import Backoff

BEGIN = 6000.0


def collector_settings(**more: Any) -> CollectorSettings:
    """Settings of a collector that reaches nothing."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": "127.0.0.1:9",
        "schema_registry_url": "http://127.0.0.1:9",
        "binance_mtls": False,
    }
    return CollectorSettings(**values | more)


def rest_settings(url: str, **more: Any) -> CollectorSettings:
    """Settings of a client for the exchange at `url`."""
    return collector_settings(binance_rest_url=url, **more)


class Clock:
    """A clock on which time passes only by the client's sleeps."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.set_forward = 0.0
        self.sleeps: list[float] = []

    @classmethod
    def of_rest(cls, monkeypatch: pytest.MonkeyPatch) -> Self:
        """The clock of `coinmesh_sources.rest` for a test."""
        clock = cls()
        monkeypatch.setattr(rest, "time", clock)
        monkeypatch.setattr(rest, "asyncio", SimpleNamespace(sleep=clock.sleep))
        backoff = functools.partial(Backoff, sleep=clock.sleep, uniform=lambda _, high: high)
        monkeypatch.setattr(rest, "Backoff", backoff)
        return clock

    def time(self) -> float:
        return self.now + self.set_forward

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nothing notifies)
            await asyncio.sleep(0)


class Rest:
    """A REST client that gives one answer."""

    url = "https://exchange"

    def __init__(self) -> None:
        self.budget = Budget(6000)
        self.status = 200
        self.body = b""
        self.requests: list[tuple[str, dict[str, Any], int]] = []

    async def get(self, path: str, arguments: dict[str, Any], weight: int) -> Answer:
        self.requests.append((path, arguments, weight))
        return Answer(f"GET {path}", self.status, self.body, 1, 1)


def entry(base: str, quote: str = "USDT", status: str = "TRADING") -> dict[str, Any]:
    return {
        "symbol": base + quote,
        "status": status,
        "baseAsset": base,
        "quoteAsset": quote,
        "filters": [{"filterType": "LOT_SIZE", "stepSize": "0.00001000"}],
        "unknown": {"kept": "as received"},
    }


def exchange_info(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"symbols": entries, **more}).encode()


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
        self.session = "binance/s"
        self.inputs: list[Input] = []
        self.messages: list[tuple[str, str, list[str]]] = []
        self.errors: list[dict[str, Any]] = []
        self.unanswered: list[tuple[str, int]] = []
        self.is_silent = False
        self.opened: list[FakeSocket] = []

    def replace_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let connections be opened to this exchange, without delays between messages."""
        monkeypatch.setattr(streams_module, "connect", self.connect)
        monkeypatch.setattr(streams_module, "SECONDS_PER_MESSAGE", 0.0)

    async def connect(self, url: str, on_message: object, context: object) -> FakeSocket:
        del url, on_message, context
        socket = FakeSocket(self, f"{self.session}/{len(self.opened) + 1}")
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
