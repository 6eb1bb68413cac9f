"""One batch: which records are written, in which writes, and how failures are repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from coinmesh_contracts import cql
from coinmesh_contracts.events.v1.trade_pb2 import TAKER_SIDE_BUY, Trade
from coinmesh_contracts.stored_trades import HOUR_SECONDS
from meshkit import backoff
from meshkit.cassandra_session import cassandra_unavailable
from tick_writer import tick_writer
from tick_writer.settings import TickWriterSettings
from tick_writer.tick_writer import HOURS, MAX_WRITES, ROWS_PER_WRITE, TRADES, TickWriter

NAME = "binance.BTC-USDT"


class Record:
    """A Kafka record, as far as it is read."""

    def __init__(self, trade: Trade) -> None:
        self.trade = trade

    def key(self) -> bytes:
        return NAME.encode()

    def timestamp(self) -> tuple[int, int]:
        return 1, 4_000_000


class Decoder:
    async def decode(self, batch: Sequence[Record]) -> list[tuple[Record, Message]]:
        return [(record, record.trade) for record in batch]


class Rejections:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def send(self, _message: object, reason: str, _detail: str) -> None:
        self.reasons.append(reason)


class Table:
    """Takes writes; the first `failures` of them fail."""

    def __init__(self, failures: int = 0) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.failures, self.running, self.most = failures, 0, 0
        self.writes: list[Sequence[Sequence[bytes]]] = []
        self.hours: list[Sequence[Sequence[bytes]]] = []
        self.log: list[str] = []

    async def write(self, statement: str, rows: Sequence[Sequence[bytes]]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.failures:
            self.failures -= 1
            raise cassandra_unavailable()
        self.log.append(statement)
        (self.writes if statement == TRADES else self.hours).append(rows)


def trades(*ids: int, **fields: Any) -> list[Record]:
    return [
        Record(
            Trade(
                instrument=NAME,
                trade_id=number,
                **{
                    "event_time": 1_000_000,
                    "price_units": 1,
                    "size_units": 1,
                    "taker_side": TAKER_SIDE_BUY,
                    **fields,
                },
            )
        )
        for number in ids
    ]


def writer(table: Table, rejections: Rejections) -> TickWriter:
    settings = TickWriterSettings(
        kafka_bootstrap_servers="localhost:1",
        schema_registry_url="http://localhost:1",  # type: ignore[arg-type]
        cassandra_contact_points="localhost:1",
    )
    return TickWriter(settings, Decoder(), rejections, table)  # type: ignore[arg-type]


async def test_writes_hold_rows_of_one_partition_and_are_bounded() -> None:
    table = Table()
    await writer(table, Rejections()).store(trades(*range(1, 4001)))  # type: ignore[arg-type]
    assert sum(map(len, table.writes)) == 4000
    assert max(map(len, table.writes)) == ROWS_PER_WRITE
    assert all(len({tuple(row[:3]) for row in rows}) == 1 for rows in table.writes)
    assert table.most == MAX_WRITES


async def test_failed_write_is_repeated_and_not_ready_meanwhile(
    monkeypatch: Any,
) -> None:
    table = Table(failures=3)
    subject = writer(table, Rejections())
    ready: list[bool] = []

    async def wait(_self: object) -> None:
        ready.append(await subject.is_ready())

    monkeypatch.setattr(backoff.Backoff, "wait", wait)
    await subject.store(trades(1))  # type: ignore[arg-type]
    assert len(table.writes) == 1
    assert ready == [False] * 3
    assert await subject.is_ready()


async def test_rejected_record_harms_no_other() -> None:
    table, rejections = Table(), Rejections()
    batch = [*trades(1), *trades(0), *trades(2)]
    await writer(table, rejections).store(batch)  # type: ignore[arg-type]
    assert sum(map(len, table.writes)) == 2
    assert rejections.reasons == ["INVALID_TRADE_ID"]


async def test_hour_is_indexed_before_its_trades_and_again_when_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, now = Table(failures=2), 5000.0
    subject = writer(table, Rejections())
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    monkeypatch.setattr(tick_writer, "time", clock)
    monkeypatch.setattr(backoff.Backoff, "wait", lambda _self: asyncio.sleep(0))
    hour = 3_600_000_000
    batch = [*trades(1), *trades(2, event_time=hour), *trades(1001, event_time=hour)]
    await subject.store(batch)  # type: ignore[arg-type]
    assert table.log == [HOURS, TRADES, TRADES, TRADES]
    assert table.hours == [[[NAME.encode(), cql.bigint(at)] for at in (0, hour // 1000)]]
    await subject.store(batch)  # type: ignore[arg-type]
    assert len(table.hours) == 1
    now += HOUR_SECONDS
    await subject.store(trades(3))  # type: ignore[arg-type]
    assert table.log[-2:] == [HOURS, TRADES]
    assert table.hours[1:] == [[[NAME.encode(), cql.bigint(0)]]]


async def test_trades_wait_while_their_hour_cannot_be_indexed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(failures=10**9)
    waiting = asyncio.Event()

    async def wait(_self: object) -> None:
        waiting.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(backoff.Backoff, "wait", wait)
    task = asyncio.create_task(writer(table, Rejections()).store(trades(1)))  # type: ignore[arg-type]
    await waiting.wait()
    assert table.writes == []
    table.failures = 0
    await task
    assert table.log == [HOURS, TRADES]
