"""Playing captures: what was recorded goes out again, and everything else follows from it."""

import gzip
import itertools
import json
from bisect import bisect_right
from decimal import Decimal

import pytest
from aiohttp import WSMsgType

from coinmesh_simulators.exchange.capture import CaptureError, frames, survey
from coinmesh_simulators.testing import LocalBook

pytestmark = pytest.mark.slow

FAST = 20  # market seconds per wall second


async def receive(ws, count: int) -> list[bytes]:
    """That many data frames, control replies left out."""
    got: list[bytes] = []
    while len(got) < count:
        message = await ws.receive()
        assert message.type is WSMsgType.TEXT, message
        data = message.data.encode()
        if not data.startswith(b'{"result"'):
            got.append(data)
    return got


def path_of(streams: list[str]) -> str:
    return "/stream?streams=" + "/".join(streams)


def test_survey_derives_symbols_scales_and_clock(capture_file):
    found = survey(capture_file.path)
    assert set(found.symbols) == {"BTCUSDT", "XRPUSDT"}
    btc, xrp = (found.symbols[name].instrument() for name in ("BTCUSDT", "XRPUSDT"))
    assert (btc.tick, btc.lot) == (10**6, 10**3)
    assert (xrp.tick, xrp.lot) == (10**4, 10**7)
    assert btc.assets() == ("BTC", "USDT")
    assert [len(entry.snapshots) for entry in found.symbols.values()] == [1, 1]
    assert 1_260_000 <= found.offset_us <= 1_272_000  # E is 2 ms later than the event


async def test_frames_leave_as_they_were_recorded(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST, time="kept")
    async with sim.connect("/stream") as first, sim.connect("/stream") as second:
        half = len(capture_file.streams) // 2
        subscribe = {"method": "SUBSCRIBE", "id": 1}
        await first.send_json(subscribe | {"params": capture_file.streams[:half]})
        assert (await first.receive_json())["result"] is None
        assert (await sim.status())["phase"] == "capture"
        assert (await sim.status())["captureLine"] == 0
        await second.send_json(subscribe | {"params": capture_file.streams[half:]})
        for ws, streams in (
            (first, capture_file.streams[:half]),
            (second, capture_file.streams[half:]),
        ):
            expected = [f for f in capture_file.frames if json.loads(f)["stream"] in streams]
            assert await receive(ws, len(expected)) == expected


async def test_the_whole_recorded_capture_leaves_as_it_was(recorded, simulator):
    sim = await simulator(capture=recorded, speed=300, time="kept")
    lines = gzip.decompress(recorded.read_bytes()).splitlines()
    expected = [line.partition(b" ")[2] for line in lines if b'"stream"' in line]
    streams = ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth@100ms"]
    async with sim.connect(path_of(streams)) as ws:
        assert await receive(ws, len(expected)) == expected
    info = await sim.json("exchangeInfo")
    filters = {f["filterType"]: f for f in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"


async def test_the_book_fits_the_quotes_from_the_capture_into_the_generated_market(
    recorded, simulator
):
    sim = await simulator(capture=recorded, speed=200, time="kept", rate=300)
    book = LocalBook(await sim.json("depth", symbol="BTCUSDT", limit=5000))
    quotes: list[tuple[int, object]] = []
    after = 0
    async with sim.connect(
        path_of(["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth@100ms"])
    ) as ws:
        while after < 200:
            data = json.loads((await receive(ws, 1))[0])["data"]
            if "B" in data:
                quotes.append((data["u"], ((data["b"], data["B"]), (data["a"], data["A"]))))
            elif data["e"] == "depthUpdate":
                was = book.update_id
                book.apply(data)
                if book.update_id > was:
                    position = bisect_right(quotes, book.update_id, key=lambda quote: quote[0])
                    assert book.top() == quotes[position - 1][1]
                after += data["E"] > 1_723_161_601_271


async def test_times_move_by_one_constant_to_the_present(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST, time="now")
    trades = capture_file.payloads("trade")
    async with sim.connect(path_of(capture_file.streams)) as ws:
        before = (await sim.json("time"))["serverTime"]
        got = [json.loads(f)["data"] for f in await receive(ws, len(capture_file.frames))]
    moved = [data for data in got if data.get("e") == "trade"]
    shifts = {new["T"] - old["T"] for new, old in zip(moved, trades, strict=True)}
    assert len(shifts) == 1
    assert abs(moved[0]["T"] - before) < 60_000
    for new, old in zip(moved, trades, strict=True):
        changed = {"E", "T"}
        assert {k: v for k, v in new.items() if k not in changed} == {
            k: v for k, v in old.items() if k not in changed
        }


async def test_raw_streams_and_microseconds(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST, time="kept")
    trades = [t for t in capture_file.payloads("trade") if t["s"] == "BTCUSDT"]
    async with (
        sim.connect("/ws/btcusdt@trade") as raw,
        sim.connect("/stream?streams=btcusdt@trade&timeUnit=MICROSECOND") as micro,
        sim.connect(path_of(capture_file.streams)) as everything,
    ):
        await receive(everything, len(capture_file.frames))
        assert [json.loads(f) for f in await receive(raw, len(trades))] == trades
        fine = [json.loads(f)["data"] for f in await receive(micro, len(trades))]
    assert [t["T"] for t in fine] == [t["T"] * 1000 for t in trades]
    assert [t["t"] for t in fine] == [t["t"] for t in trades]


async def test_a_snapshot_asked_for_at_any_time_joins_the_stream(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST, time="kept")
    early = await sim.json("depth", symbol="BTCUSDT", limit=5000)
    recorded = survey(capture_file.path).symbols["BTCUSDT"].snapshots[0]
    assert early["lastUpdateId"] == recorded.update_id
    async with sim.connect(path_of(capture_file.streams)) as ws:
        events: list[dict] = []
        joined = 0
        for count in range(len(capture_file.frames)):
            data = json.loads((await receive(ws, 1))[0])["data"]
            if data.get("e") == "depthUpdate" and data["s"] == "BTCUSDT":
                events.append(data)
            if count % 300 == 299:
                snapshot = await sim.json("depth", symbol="BTCUSDT", limit=5000)
                while events[-1]["u"] <= snapshot["lastUpdateId"]:
                    data = json.loads((await receive(ws, 1))[0])["data"]
                    if data.get("e") == "depthUpdate" and data["s"] == "BTCUSDT":
                        events.append(data)
                following = next(e for e in events if e["u"] > snapshot["lastUpdateId"])
                assert following["U"] <= snapshot["lastUpdateId"] + 1
                joined += 1
                if joined == 3:
                    return


async def test_streams_that_the_capture_lacks_are_derived(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST, time="kept")
    extra = [f"btcusdt@{kind}" for kind in ("aggTrade", "kline_1m", "kline_1s", "depth", "depth5")]
    trades = [t for t in capture_file.payloads("trade") if t["s"] == "BTCUSDT"]
    diffs = [d for d in capture_file.payloads("depth@100ms") if d["s"] == "BTCUSDT"]
    async with sim.connect(path_of(capture_file.streams + extra)) as ws:
        seen: dict[str, list[dict]] = {stream: [] for stream in extra}
        left = len(capture_file.frames)
        while left:
            frame = json.loads((await receive(ws, 1))[0])
            if frame["stream"] in seen:
                seen[frame["stream"]].append(frame["data"])
            else:
                left -= 1
    groups = seen["btcusdt@aggTrade"]
    ids = [i for g in groups for i in range(g["f"], g["l"] + 1)]
    assert ids == [t["t"] for t in trades][: len(ids)]
    assert len(ids) > len(trades) * 0.9
    closed = [e["k"] for e in seen["btcusdt@kline_1m"] if e["k"]["x"]]
    assert closed
    inside = [t for t in trades if closed[0]["t"] <= t["T"] <= closed[0]["T"]]
    assert closed[0]["n"] == len(inside)
    assert Decimal(closed[0]["v"]) == sum(Decimal(t["q"]) for t in inside)
    assert Decimal(closed[0]["q"]) == sum(Decimal(t["q"]) * Decimal(t["p"]) for t in inside)
    slow = seen["btcusdt@depth"]
    assert slow[0]["U"] == diffs[0]["U"]
    assert all(a["u"] + 1 == b["U"] for a, b in itertools.pairwise(slow))
    assert all(len(p["bids"]) == 5 for p in seen["btcusdt@depth5"])


async def test_the_generated_market_goes_on_from_the_capture(capture_file, simulator):
    sim = await simulator(capture=capture_file.path, speed=FAST * 4, time="kept", rate=200)
    end = survey(capture_file.path).end_us // 1000
    trades = [t for t in capture_file.payloads("trade") if t["s"] == "BTCUSDT"]
    diffs = [d for d in capture_file.payloads("depth@100ms") if d["s"] == "BTCUSDT"]
    async with sim.connect(path_of(capture_file.streams)) as ws:
        await receive(ws, len(capture_file.frames))
        first: dict[str, dict] = {}
        while len(first) < 3:
            frame = json.loads((await receive(ws, 1))[0])
            if frame["stream"].startswith("btcusdt"):
                first.setdefault(frame["stream"], frame["data"])
    assert first["btcusdt@trade"]["t"] == trades[-1]["t"] + 1
    assert first["btcusdt@trade"]["T"] // 60_000 == end // 60_000 + 1
    assert first["btcusdt@depth@100ms"]["U"] == diffs[-1]["u"] + 1
    assert first["btcusdt@depth@100ms"]["E"] // 60_000 == end // 60_000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "expected `<receive time in ns>"),
        (b'1723161253937085768 {"stream":"btcusdt@trade","data":{', "truncated"),
        (b'1723161253937085768 {"stream":"btcusdt@trade","data":{"e":"trade"}}', "required"),
        (b'1723161253937085768 {"foo":1, "stream":"btcusdt"}', "not a stream name"),
        (
            (
                b'1723161253937085768 {"stream":"b@bookTicker","data":'
                b'{"u":1,"s":"B","b":"x","B":"1","a":"2","A":"1"}}'
            ),
            "'x' is not a decimal",
        ),
    ],
)
def test_a_malformed_capture_is_named_with_its_line(tmp_path, capture_file, line, reason):
    good = gzip.decompress(capture_file.path.read_bytes()).splitlines()[:4]
    path = tmp_path / "broken"
    path.write_bytes(b"\n".join([*good, line, b""]))
    with pytest.raises(CaptureError, match=rf"broken, line 5: .*{reason}"):
        survey(path)


def test_a_truncated_capture_is_named(tmp_path, recorded):
    path = tmp_path / "cut.gz"
    path.write_bytes(recorded.read_bytes()[:50_000])
    with pytest.raises(CaptureError, match=r"cut\.gz, after line \d+"):
        list(frames(path))


def test_an_empty_or_missing_capture_is_named(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for name in ("empty", "missing"):
        with pytest.raises(CaptureError, match=name):
            survey(tmp_path / name)
