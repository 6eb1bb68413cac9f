"""Streams on sockets without a network: subscriptions, their failures, silence and pauses."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from fakes import Exchange, collector_settings, until

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.connections import CLOSED, REJECTED
from collector_binance import streams as streams_module
from collector_binance.streams import Streams
from meshkit.metrics import Metrics


@pytest.fixture
async def exchange(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Exchange]:
    """An exchange with running streams."""
    exchange = Exchange()
    exchange.replace_network(monkeypatch)
    exchange.streams = Streams(
        collector_settings(), "binance/s", exchange.inputs.append, lambda *_: None, Metrics()
    )
    yield exchange
    await exchange.streams.close()


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


async def test_no_subscription_is_recorded_after_the_end_of_its_connection(
    exchange: Exchange,
) -> None:
    streams = exchange.streams
    await streams.add(["A"])
    await until(lambda: streams.is_live)
    exchange.errors.append({"code": 4, "msg": "Too many subscriptions"})
    await streams.add(["B"])
    await streams.add(["C"])  # before the slot has noticed the end
    await until(lambda: carried(exchange) == {"binance/s/2": {"a", "b", "c"}})
    first = [one.kind for one in exchange.inputs if one.connection == "binance/s/1"]
    assert first[-1] == FrameKind.FRAME_KIND_DISCONNECT


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
