"""Faults on request, each with its filter, count and effect."""

import itertools
import json

import pytest
from aiohttp import ClientError, WSMsgType

DEPTH = "/stream?streams=btcusdt@depth@100ms/ethusdt@depth@100ms"


async def depths(ws, symbol: str, count: int) -> list[dict]:
    """The next depth events of a symbol."""
    got: list[dict] = []
    while len(got) < count:
        message = await ws.receive()
        assert message.type is WSMsgType.TEXT, message
        data = json.loads(message.data)["data"]
        if data["s"] == symbol:
            got.append(data)
    return got


@pytest.fixture
async def sim(local):
    return await local(symbols="BTCUSDT,ETHUSDT", rate=500, speed=5)


async def test_a_dropped_frame_is_missing_for_its_symbol_only(sim):
    async with sim.connect(DEPTH) as ws:
        before = (await depths(ws, "BTCUSDT", 1))[0]
        await sim.fault(kind="drop", symbol="BTCUSDT", stream="*@depth*", count=1)
        events = [before, *await depths(ws, "BTCUSDT", 30)]
        breaks = [b["U"] - a["u"] for a, b in itertools.pairwise(events)]
        assert sum(step != 1 for step in breaks) == 1
        others = await depths(ws, "ETHUSDT", 10)
        assert all(a["u"] + 1 == b["U"] for a, b in itertools.pairwise(others))
    (report,) = await sim.faults()
    assert (report["applied"], report["over"]) == (1, True)


async def test_duplicates_and_reordering(sim):
    async with sim.connect(DEPTH) as ws:
        await depths(ws, "BTCUSDT", 1)
        await sim.fault(kind="duplicate", symbol="BTCUSDT", count=1)
        ids = [event["u"] for event in await depths(ws, "BTCUSDT", 30)]
        assert len(ids) - len(set(ids)) == 1
        await sim.clear()
        await sim.fault(kind="reorder", symbol="BTCUSDT", count=1)
        ids = [event["u"] for event in await depths(ws, "BTCUSDT", 30)]
        assert sum(a > b for a, b in itertools.pairwise(ids)) == 1
        assert len(set(ids)) == 30


async def test_a_malformed_frame(sim):
    async with sim.connect(DEPTH) as ws:
        await depths(ws, "BTCUSDT", 1)
        await sim.fault(kind="malformed", stream="btcusdt@depth*", count=1)
        with pytest.raises(json.JSONDecodeError):
            await depths(ws, "BTCUSDT", 100)


async def test_delayed_frames_keep_their_order(sim):
    async with sim.connect(DEPTH) as ws:
        await depths(ws, "BTCUSDT", 1)
        await sim.fault(kind="delay", symbol="BTCUSDT", delay_ms=300, duration_s=60)
        events = await depths(ws, "BTCUSDT", 20)
        truth = await sim.truth("BTCUSDT")
        assert truth["lastDepthId"] > events[-1]["u"]
        assert all(a["u"] + 1 == b["U"] for a, b in itertools.pairwise(events))


async def test_a_stall_keeps_the_socket_open_and_loses_what_happens(sim):
    async with sim.connect("/ws/btcusdt@depth@100ms") as ws:
        await sim.fault(kind="stall", symbol="BTCUSDT")
        before = await sim.truth("BTCUSDT")
        while (await sim.truth("BTCUSDT"))["lastDepthId"] < before["lastDepthId"] + 200:
            assert not ws.closed
        await sim.clear()
        while (event := json.loads((await ws.receive()).data))["U"] <= before["lastDepthId"] + 1:
            pass
        assert event["U"] > before["lastDepthId"] + 100


async def test_disconnections_hit_those_who_listen_to_the_symbol(sim):
    async with (
        sim.connect("/ws/btcusdt@trade") as struck,
        sim.connect("/ws/ethusdt@trade") as spared,
    ):
        await sim.fault(kind="disconnect", symbol="BTCUSDT")
        while (message := await struck.receive()).type is WSMsgType.TEXT:
            pass
        assert message.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert (await spared.receive()).type is WSMsgType.TEXT


@pytest.mark.parametrize(
    ("path", "find"),
    [
        ("/stream?streams=btcusdt@trade", lambda m: m.get("stream") == "!serverShutdown"),
        ("/ws/btcusdt@trade", lambda m: m.get("e") == "serverShutdown"),
    ],
)
async def test_server_shutdown_is_announced_in_both_envelopes(sim, path, find):
    async with sim.connect(path) as ws:
        await sim.fault(kind="server_shutdown", grace_s=0.2)
        announced = False
        while (message := await ws.receive()).type is WSMsgType.TEXT:
            announced = announced or find(json.loads(message.data))
        assert announced
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)


async def test_refused_requests_and_stale_snapshots(sim):
    await sim.fault(kind="rate_limit", path="*/depth", count=2, retry_after_s=7)
    await sim.fault(kind="ban", path="*/trades", count=1, retry_after_s=120)
    for _ in range(2):
        status, body, headers = await sim.get("depth", symbol="BTCUSDT")
        assert (status, body["code"], headers["Retry-After"]) == (429, -1003, "7")
    assert (await sim.get("depth", symbol="BTCUSDT"))[0] == 200
    status, _, headers = await sim.get("trades", symbol="BTCUSDT")
    assert (status, headers["Retry-After"]) == (418, "120")
    await sim.fault(kind="stale_snapshot", symbol="BTCUSDT", count=2)
    frozen = await sim.json("depth", symbol="BTCUSDT")
    while (await sim.truth("BTCUSDT"))["lastUpdateId"] < frozen["lastUpdateId"] + 100:
        await sim.status()
    assert await sim.json("depth", symbol="BTCUSDT") == frozen
    fresh = await sim.json("depth", symbol="BTCUSDT")
    assert fresh["lastUpdateId"] > frozen["lastUpdateId"]


async def test_probability_is_seeded_and_bad_requests_are_explained(sim):
    async with sim.connect("/ws/btcusdt@bookTicker") as ws:
        await sim.fault(kind="drop", stream="*@bookTicker", probability=0.5, seed=3)
        while (await sim.faults())[0]["matched"] < 200:
            await ws.receive()
        report = (await sim.faults())[0]
        assert 0.3 < report["applied"] / report["matched"] < 0.7
    for bad in ({"kind": "nope"}, {"kind": "drop", "colour": 1}, {"kind": "drop", "symbol": "X"}):
        async with sim.session.post(f"{sim.admin}/admin/faults", json=bad) as response:
            assert response.status == 400
            assert "error" in await response.json()
    with pytest.raises((ClientError, AssertionError)):
        await sim.json(f"{sim.admin}/admin/market/NOPE")
