"""What the real streams and snapshots do that a kind simulator would not: a test for each case."""

import asyncio
import json

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from coinmesh_simulators.exchange.limits import Limits
from coinmesh_simulators.exchange.past_books import MOST_EVENTS
from coinmesh_simulators.testing import Listener, LocalBook


async def answer(ws) -> dict:
    """The next control answer; data frames in between are passed over."""
    while True:
        message = json.loads((await ws.receive()).data)
        if message.keys() & {"result", "error", "code"}:
            return message


@pytest.mark.parametrize("name", ["BTCUSDT@trade", "nope@trade", "a@b", "btcusdt@nope", "x"])
async def test_wrong_stream_is_acknowledged_and_silent(local, name):
    sim = await local(symbols="BTCUSDT", rate=2_000)
    async with sim.connect("/stream") as ws, sim.connect("/ws/btcusdt@trade") as busy:
        await ws.send_json({"method": "SUBSCRIBE", "params": [name], "id": 1})
        assert await answer(ws) == {"result": None, "id": 1}
        for _ in range(20):
            await busy.receive_json()
        await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert await ws.receive_json() == {"result": [name], "id": 2}


async def test_permissive_mode_refuses_wrong_streams(local):
    sim = await local(symbols="BTCUSDT", rate=0, permissive=True)
    async with sim.connect("/stream") as ws:
        await ws.send_json({"method": "SUBSCRIBE", "params": ["a@b"], "id": 1})
        assert (await answer(ws))["code"] == 2


async def test_second_subscription_to_a_stream_delivers_once(local):
    sim = await local(symbols="BTCUSDT", rate=1_000)
    async with sim.connect("/stream?streams=btcusdt@trade") as ws:
        await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1})
        assert await answer(ws) == {"result": None, "id": 1}
        ids = [(await ws.receive_json())["data"]["t"] for _ in range(50)]
        assert ids == list(range(ids[0], ids[0] + 50))


async def test_message_that_is_too_long_gets_no_answer(local):
    sim = await local(symbols="BTCUSDT", rate=0)
    names = [f"symbol{number}usdt@aggTrade" for number in range(437)]
    async with sim.connect("/stream") as ws:
        await ws.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
        await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert await ws.receive_json() == {"result": [], "id": 2}


async def test_unanswered_fault_swallows_a_subscription(local):
    sim = await local(symbols="BTCUSDT,ETHUSDT", rate=0)
    await sim.fault(kind="unanswered", symbol="BTCUSDT", count=1)
    async with sim.connect("/stream") as ws:
        for number, name in enumerate(("btcusdt@trade", "ethusdt@trade")):
            await ws.send_json({"method": "SUBSCRIBE", "params": [name], "id": number})
        assert await ws.receive_json() == {"result": None, "id": 1}
        await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert (await ws.receive_json())["result"] == ["ethusdt@trade"]


async def test_frames_without_end_dropped_leave_an_acknowledged_silent_stream(local):
    sim = await local(symbols="BTCUSDT", rate=1_000)
    await sim.fault(kind="drop", stream="btcusdt@trade")
    async with sim.connect("/stream") as ws:
        params = ["btcusdt@trade", "btcusdt@bookTicker"]
        await ws.send_json({"method": "SUBSCRIBE", "params": params, "id": 1})
        assert await answer(ws) == {"result": None, "id": 1}
        streams = {(await ws.receive_json())["stream"] for _ in range(50)}
        assert streams == {"btcusdt@bookTicker"}


async def test_connections_receive_at_different_times(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, skew_ms=10_000)
    path = "/ws/btcusdt@bookTicker"
    async with sim.connect(path) as first, sim.connect(path) as second:
        pending = asyncio.create_task(second.receive())
        for _ in range(100):
            await first.receive()
        assert not pending.done()
        pending.cancel()


async def test_skew_fault_delays_every_second_connection(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, skew_ms=0)
    path = "/ws/btcusdt@bookTicker"
    await sim.fault(kind="skew", symbol="BTCUSDT", delay_ms=60_000)
    async with sim.connect(path) as first, sim.connect(path) as second:
        pending = asyncio.create_task(second.receive())
        for _ in range(100):
            await first.receive()
        assert not pending.done()
        await sim.clear()
        assert (await sim.faults()) == []
        pending.cancel()


async def test_event_time_is_later_than_trade_time(local):
    sim = await local(symbols="BTCUSDT", rate=1_000)
    async with sim.connect("/ws/btcusdt@trade?timeUnit=MICROSECOND") as ws:
        lags = [(frame := await ws.receive_json())["E"] - frame["T"] for _ in range(100)]
    assert min(lags) > 0
    assert len(set(lags)) > 20


async def test_only_changed_symbols_are_in_the_array_of_tickers(local):
    sim = await local(symbols="BTCUSDT,ETHUSDT", rate=100, speed=20)
    async with sim.connect("/ws/!miniTicker@arr") as ws:
        both = {"BTCUSDT", "ETHUSDT"}
        while {entry["s"] for entry in await ws.receive_json()} != both:
            pass
        await sim.listing("ETHUSDT", status="HALT")
        while {entry["s"] for entry in await ws.receive_json()} == both:
            pass


@pytest.mark.parametrize("code", [1000, 1001, 1007, 1008, 1009, 1011])
async def test_disconnect_fault_closes_with_the_code_asked_for(local, code):
    sim = await local(symbols="BTCUSDT", rate=0)
    async with sim.connect("/ws/btcusdt@trade") as ws:
        await sim.fault(kind="disconnect", close_code=code)
        message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, code)


async def test_handshake_fault_needs_the_path_of_streams(local):
    sim = await local(symbols="BTCUSDT", rate=0)
    await sim.fault(kind="status", status=451)  # of REST, as no path is given
    async with sim.connect("/stream"):
        pass
    await sim.fault(kind="status", status=503, path="/stream", count=1)
    with pytest.raises(WSServerHandshakeError) as exc_info:
        await sim.session.ws_connect(sim.ws + "/stream")
    assert exc_info.value.status == 503


def test_repeated_cuts_for_too_many_messages_ban_the_address():
    now = 0.0
    limits = Limits(100, 10, lambda: now)
    for _ in range(5):
        limits.cut("a")
    assert limits.banned("a") is None
    limits.cut("a")
    assert limits.banned("a") == limits.charge("a", 1)
    assert limits.charge("a", 1).status == 418
    now = 121.0
    assert limits.banned("a") is None


async def test_lifetime_ends_with_a_close_frame_or_without(local):
    sim = await local(symbols="BTCUSDT", rate=0, connection_lifetime=0.5)
    path = "/ws/btcusdt@trade"
    async with sim.connect(path) as first, sim.connect(path) as second:
        closed, cut = await first.receive(), await second.receive()
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1001)
        assert cut.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert second.close_code == 1006


async def test_url_that_is_too_long_is_refused(local):
    sim = await local(symbols="BTCUSDT", rate=0)
    names = "/".join(f"symbol{number}usdt@trade" for number in range(600))
    with pytest.raises(WSServerHandshakeError) as exc_info:
        await sim.session.ws_connect(f"{sim.ws}/stream?streams={names}")
    assert exc_info.value.status == 400


@pytest.mark.slow
def test_snapshot_may_be_between_two_depth_events_or_older(bench):
    made = bench("BTCUSDT", 3)
    market = made.markets["BTCUSDT"]
    listener = Listener(made.hub, ["btcusdt@depth@100ms"])
    ids: dict[int | None, set[int]] = {None: set(), 0: set(), 1: set(), MOST_EVENTS: set()}
    books: list[tuple[LocalBook, int]] = []
    for count in range(400):
        made.step(20_000)
        events = [data for _, data in listener.frames]
        if len(events) > MOST_EVENTS and count % 7 == 0:
            for age, ahead in ids.items():
                snapshot = market.snapshot(5000, age)
                ahead.add(snapshot["lastUpdateId"] - events[-1 - (age or 0)]["u"])
                books.append((LocalBook(snapshot), len(events) - 1 - (age or 0)))
    assert max(ids.pop(None)) > 0
    assert set.union(*ids.values()) == {0}
    made.step(200_000)
    truth = LocalBook(market.snapshot(5000, 0))
    events = [data for _, data in listener.frames]
    for book, position in books:
        for event in events[position:]:
            book.apply(event)
        assert (book.update_id, book.sides) == (truth.update_id, truth.sides)


async def test_snapshot_may_be_older_than_several_events(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, deep_levels=0, weight_per_minute=10**6)
    events = [0]
    served = 1
    # A client that has the last three events can't join such a snapshot: it requests another.
    while len(events) < 4 or served >= events[-4]:
        last = (await sim.truth("BTCUSDT"))["lastDepthId"]
        events += [last] if last > events[-1] else []
        served = (await sim.json("depth", symbol="BTCUSDT", limit=5))["lastUpdateId"]


async def test_snapshots_of_all_ages_are_served_unless_aligned(local):
    sim = await local(symbols="BTCUSDT", rate=1_000, deep_levels=0, weight_per_minute=10**6)
    seen = set()
    while len(seen) < 3:
        before = (await sim.truth("BTCUSDT"))["lastDepthId"]
        served = (await sim.json("depth", symbol="BTCUSDT", limit=5))["lastUpdateId"]
        seen.add((served > before) - (served < before))
    assert seen == {-1, 0, 1}
