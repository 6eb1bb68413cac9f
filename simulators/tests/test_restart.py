"""State survives restarts: also kill -9 at any moment, in capture and in generated market."""

import json
import random
import signal
import subprocess
import sys

import pytest
from aiohttp import WSMsgType

from coinmesh_simulators.exchange.settings import split_address

pytestmark = pytest.mark.slow


async def listen(sim, streams: list[str], count: int, kept: list[dict]) -> None:
    async with sim.connect("/stream?streams=" + "/".join(streams)) as ws:
        target = len(kept) + count
        while len(kept) < target:
            message = await ws.receive()
            assert message.type is WSMsgType.TEXT, message
            kept.append(json.loads(message.data)["data"])


def by_id(events: list[dict]) -> dict[int, tuple]:
    """Trades by id; an id with two contents fails."""
    found: dict[int, tuple] = {}
    for event in events:
        if event.get("e") == "trade":
            content = (event["p"], event["q"], event["T"], event["m"])
            assert found.setdefault(event["t"], content) == content
    return found


async def history(sim, symbol: str, first: int, last: int) -> dict[int, tuple]:
    found: dict[int, tuple] = {}
    while first <= last:
        page = await sim.json("historicalTrades", symbol=symbol, fromId=first, limit=1000)
        found |= {t["id"]: (t["price"], t["qty"], t["time"], t["isBuyerMaker"]) for t in page}
        first = page[-1]["id"] + 1
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_generated_market_goes_on_without_reusing_an_id(simulator, number):
    sim = await simulator(
        symbols="BTCUSDT", rate=800, speed=3, weight_per_minute=10**6, database_lag=0
    )
    chance = random.Random(4)
    events: list[dict] = []
    last_depth = 0
    for _ in range(5):
        mark = len(events)
        await listen(
            sim, ["btcusdt@trade", "btcusdt@depth@100ms"], chance.randint(100, 600), events
        )
        for event in events[mark:]:
            if event["e"] == "depthUpdate":
                assert event["U"] > last_depth
                last_depth = event["u"]
        before = await sim.truth("BTCUSDT")
        await sim.restart(number)
        after = await sim.truth("BTCUSDT")
        assert after["lastUpdateId"] >= before["lastUpdateId"]
        assert after["lastTradeId"] >= before["lastTradeId"]
    heard = by_id(events)
    kept = await history(sim, "BTCUSDT", 1, max(heard))
    assert list(kept)[: max(heard)] == list(range(1, max(heard) + 1))
    assert heard == {number: kept[number] for number in heard}
    times = [event["T"] for event in events if event["e"] == "trade"]
    assert times == sorted(times)


async def test_the_first_update_after_a_restart_follows_the_last(simulator):
    sim = await simulator(symbols="BTCUSDT", rate=300, speed=3)
    last = 0
    for _ in range(4):
        events: list[dict] = []
        await listen(sim, ["btcusdt@depth@100ms"], 10, events)
        if last:
            assert events[0]["U"] > last
        # What was published after this client had left is the only hole there can be.
        await sim.end(signal.SIGTERM)
        await sim.start()
        last = events[-1]["u"]
        snapshot = await sim.json("depth", symbol="BTCUSDT", limit=5000)
        assert snapshot["lastUpdateId"] >= last


@pytest.mark.parametrize("mode", ["kept", "now"])
async def test_a_capture_goes_on_where_it_was_and_is_played_once(capture_file, simulator, mode):
    sim = await simulator(
        capture=capture_file.path, speed=10, time=mode, rate=300, weight_per_minute=10**6
    )
    trades = {(t["s"], t["t"]): t for t in capture_file.payloads("trade")}
    depths = [d["u"] for d in capture_file.payloads("depth@100ms") if d["s"] == "BTCUSDT"]
    events: list[dict] = []
    lines: list[int] = []
    while (await sim.status())["phase"] == "capture":
        await listen(sim, capture_file.streams, len(capture_file.frames) // 4, events)
        await sim.restart()
        lines.append((await sim.status())["captureLine"])
    assert lines == sorted(lines)
    assert len(lines) >= 3
    heard = [e["u"] for e in events if e.get("e") == "depthUpdate" and e["s"] == "BTCUSDT"]
    assert heard == sorted(set(heard))
    await listen(sim, capture_file.streams, 200, events)
    first = next(e for e in events if e.get("e") == "trade")
    shift = first["T"] - trades[first["s"], first["t"]]["T"]
    assert (shift == 0) == (mode == "kept")
    recorded = {key: (t["p"], t["q"], t["T"] + shift, t["m"]) for key, t in trades.items()}
    for symbol in capture_file.symbols:
        wanted = {t: content for (s, t), content in recorded.items() if s == symbol}
        kept = await history(sim, symbol, min(wanted), max(wanted))
        assert {number: kept[number] for number in wanted} == wanted
        mine = by_id([e for e in events if e["s"] == symbol and e.get("e") == "trade"])
        assert all(wanted.get(t, content) == content for t, content in mine.items())
    after = [e["U"] for e in events if e.get("e") == "depthUpdate" and e["s"] == "BTCUSDT"]
    assert max(after) > depths[-1]


async def test_klines_survive_a_restart(simulator):
    sim = await simulator(
        symbols="BTCUSDT", rate=100, speed=60, weight_per_minute=10**6, database_lag=0
    )
    while len(before := await sim.json("klines", symbol="BTCUSDT", interval="1m")) < 3:
        pass
    await sim.restart()
    after = await sim.json(
        "klines", symbol="BTCUSDT", interval="1m", startTime=before[0][0], limit=len(before)
    )
    assert after[:-1] == before[:-1]
    trades = await history(sim, "BTCUSDT", 1, (await sim.truth("BTCUSDT"))["lastTradeId"])
    inside = [t for t in trades.values() if before[1][0] <= t[2] <= before[1][6]]
    assert before[1][8] == len(inside)


def run_main(tmp_path, **settings: object) -> str:
    """Run to the end; returns what was said."""
    values = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"} | settings
    values.setdefault("state_dir", tmp_path / "state")
    done = subprocess.run(
        [sys.executable, "-c", "from coinmesh_simulators.exchange.main import main; main()"],
        env={f"COINMESH_SIM_{k.upper()}": str(v) for k, v in values.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


async def test_bad_settings_are_named(tmp_path, simulator, capture_file):
    (tmp_path / "file").write_text("")
    assert "missing" in run_main(tmp_path, capture=tmp_path / "missing")
    assert "names no symbol" in run_main(tmp_path, symbols=",")
    assert "speed" in run_main(tmp_path, speed=0)
    assert "not an address" in run_main(tmp_path, listen="nowhere")
    assert "state directory" in run_main(tmp_path, state_dir=tmp_path / "file" / "x")
    sim = await simulator(symbols="BTCUSDT", rate=100)
    running = tmp_path / "state0"
    assert "used by another simulator" in run_main(tmp_path, state_dir=running)
    address = sim.base.removeprefix("http://")
    assert "address already in use" in run_main(tmp_path, listen=address)
    await sim.end(signal.SIGTERM)
    message = run_main(tmp_path, state_dir=running, capture=capture_file.path)
    assert "holds another market" in message
    assert "COINMESH_SIM_STATE_DIR" in message
    assert split_address("[::1]:80") == ("::1", 80)
