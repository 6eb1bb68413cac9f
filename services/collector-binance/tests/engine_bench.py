"""An engine with both cores, and the events that it has made, for tests."""

import json
from typing import Any

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.digest import parse
from coinmesh_sources.inputs import Input
from collector_binance.core.encode import Headers
from collector_binance.testing import BEGIN_NS, SYMBOL, CaptureTwins, Twins

TRADES, QUOTES, BOOKS = "market.trades.v1", "market.quotes.v1", "market.books.v1"
GAPS, DEAD, INSTRUMENTS = "ingest.gaps.v1", "ingest.dlq.v1", "market.instruments.v1"
A, B, REST = "binance/s/1", "binance/s/2", "binance/s/0"
STREAMS = [f"{SYMBOL.lower()}@{s}" for s in ("trade", "bookTicker", "depth@100ms", "kline_1m")]
MICRO = "wss://x/stream?timeUnit=MICROSECOND"
PRICE = 100 * 10**8


class Bench:
    """An engine, and the events that it has made."""

    def __init__(self, *, admits_any: bool = False) -> None:
        self.engine = (CaptureTwins if admits_any else Twins)(Headers.offline())
        self.events: list[tuple[str, Any]] = []
        self.now = BEGIN_NS

    def give(
        self,
        kind: str,
        connection: str = A,
        payload: bytes = b"",
        context: str = "",
        status: int = 200,
    ) -> None:
        number = FrameKind.Value(f"FRAME_KIND_{kind}")
        records = self.engine.apply(Input(number, connection, self.now, payload, context, status))
        self.events += [(topic, parse(topic, value)) for topic, _, value in records]

    def open(self, connection: str = A, url: str = "wss://x/stream") -> None:
        self.give("CONNECT", connection, context=url)
        control = {"method": "SUBSCRIBE", "params": STREAMS, "id": 1}
        self.give("SUBSCRIPTION", connection, json.dumps(control).encode())

    def send(self, frame: bytes, connection: str = A, after_ns: int = 1000) -> None:
        self.now += after_ns
        self.give("MESSAGE", connection, frame)

    def of(self, topic: str) -> list[Any]:
        return [event for name, event in self.events if name == topic]

    def commands(self) -> list[Any]:
        commands = self.engine.commands[:]
        self.engine.commands.clear()
        return commands
