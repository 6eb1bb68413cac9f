"""Replay: exactness on the recorded capture, determinism, removed frames, bad captures."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coinmesh_sources.digest import parse
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.encode import Headers
from collector_binance.main import main
from collector_binance.replay import events

pytestmark = pytest.mark.slow

TRADES, BOOKS, GAPS = "market.trades.v1", "market.books.v1", "ingest.gaps.v1"


def replay(capture: Path, out: Path, *more: str) -> int:
    return main(["replay", str(capture), "--out", str(out), *more])


def lines(out: Path, topic: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{topic}.jsonl").read_text().splitlines()]


def frames(capture_lines: list[bytes], kind: str) -> list[dict[str, Any]]:
    wanted = f'@{kind}"'.encode()
    return [json.loads(line.split(b" ", 1)[1])["data"] for line in capture_lines if wanted in line]


def test_every_trade_comes_in_order_with_its_exact_values(
    capture: Path, capture_lines: list[bytes], replayed: Path
) -> None:
    assert replay(capture, replayed) == 0
    ours = [
        (
            int(event["tradeId"]),
            Decimal(event["priceUnits"]).scaleb(event["priceExponent"]),
            Decimal(event["sizeUnits"]).scaleb(event["sizeExponent"]),
            int(event["eventTime"]),
            event["takerSide"] == "TAKER_SIDE_SELL",
        )
        for event in lines(replayed, TRADES)
    ]
    theirs = [
        (each["t"], Decimal(each["p"]), Decimal(each["q"]), each["T"] * 1000, each["m"])
        for each in frames(capture_lines, "trade")
    ]
    assert ours == theirs
    assert lines(replayed, GAPS) == []
    assert lines(replayed, "ingest.dlq.v1") == []


def test_the_top_after_each_depth_event_is_the_last_book_ticker(
    capture: Path, capture_lines: list[bytes], replayed: Path, tmp_path: Path
) -> None:
    top = tmp_path / "top.jsonl"
    assert replay(capture, replayed, "--book-top", str(top)) == 0
    quotes = frames(capture_lines, "bookTicker")
    compared = at = 0
    for line in top.read_text().splitlines():
        ours = json.loads(line)
        assert set(ours) == {"u", "bid", "ask"}
        while at + 1 < len(quotes) and quotes[at + 1]["u"] <= ours["u"]:
            at += 1
        quote = quotes[at]
        if quote["u"] <= ours["u"]:
            assert ours["bid"] == [quote["b"], quote["B"]]
            assert ours["ask"] == [quote["a"], quote["A"]]
            compared += 1
    assert compared > 3000


def test_two_replays_give_the_same_bytes(capture: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert replay(capture, tmp_path / name) == 0
    first = sorted((tmp_path / "first").iterdir())
    assert [path.name for path in first] == sorted(p.name for p in (tmp_path / "second").iterdir())
    for path in first:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def gaps_of(path: Path) -> list[Any]:
    engine = CaptureEngine(Headers.offline())
    return [
        parse(topic, value)
        for records in events(path, engine)
        for topic, _, value in records
        if topic == GAPS
    ]


@pytest.mark.parametrize("position", [0.001, 0.2, 0.5, 0.8, 0.999])
def test_one_removed_depth_frame_is_exactly_one_gap(
    capture_lines: list[bytes], tmp_path: Path, position: float
) -> None:
    # The first minute and a half is enough, and keeps this quick.
    part = capture_lines[:8000]
    depth = [n for n, line in enumerate(part) if b"@depth" in line]
    applied = [n for n in depth if n > 8]
    victim = applied[1 + int(position * (len(applied) - 3))]
    lost = json.loads(part[victim].split(b" ", 1)[1])["data"]
    path = tmp_path / "capture"
    path.write_bytes(b"\n".join(line for n, line in enumerate(part) if n != victim))
    (gap,) = gaps_of(path)
    assert (gap.channel, gap.ids.first, gap.ids.last) == ("book", lost["U"], lost["u"])
    assert gap.state == 1  # open: the capture has no later snapshot


def test_a_later_snapshot_resyncs_the_book(
    capture_lines: list[bytes], tmp_path: Path, replayed: Path
) -> None:
    part = capture_lines[:6000]
    depth = [n for n, line in enumerate(part) if b"@depth" in line]
    victim, restored = depth[40], depth[60]
    # The book at `restored`, from our own replay of the whole, is the later snapshot.
    whole = tmp_path / "whole"
    whole.write_bytes(b"\n".join(part[: restored + 1]))
    engine = CaptureEngine(Headers.offline())
    for _ in events(whole, engine):
        pass
    book = engine.markets["BTCUSDT"].book
    snapshot = {
        "lastUpdateId": book.last_id,
        "bids": [[_text(p), _text(s)] for p, s in zip(*book.bids.top(9999), strict=True)],
        "asks": [[_text(p), _text(s)] for p, s in zip(*book.asks.top(9999), strict=True)],
    }
    time = part[restored + 5].split(b" ")[0]
    broken = [line for n, line in enumerate(part) if n != victim]
    broken.insert(restored + 5, time + b" " + json.dumps(snapshot).encode())
    path = tmp_path / "capture.gz"
    path.write_bytes(gzip.compress(b"\n".join(broken)))
    top = tmp_path / "top"
    assert replay(path, replayed, "--book-top", str(top)) == 0
    states = [gap["state"] for gap in lines(replayed, GAPS)]
    assert states == ["GAP_STATE_OPEN", "GAP_STATE_RESYNCED"]
    assert len({gap["gapId"] for gap in lines(replayed, GAPS)}) == 1
    updates = [json.loads(line)["u"] for line in top.read_text().splitlines()]
    last = json.loads(part[depth[-1]].split(b" ", 1)[1])["data"]["u"]
    assert updates[-1] == last
    kinds = [event for event in lines(replayed, BOOKS) if event.get("stale")]
    assert len(kinds) == 1


def _text(units: int) -> str:
    return f"{units // 10**8}.{units % 10**8:08d}"


def test_an_instruments_file_names_the_instruments(
    capture_lines: list[bytes], tmp_path: Path, replayed: Path
) -> None:
    info = {
        "symbols": [
            {
                "symbol": "BTCUSDT",
                "status": "TRADING",
                "baseAsset": "XBT",
                "quoteAsset": "USDT",
                "filters": [
                    {"filterType": "LOT_SIZE", "stepSize": "0.00001000"},
                    {"filterType": "PRICE_FILTER", "tickSize": "0.01000000"},
                ],
            }
        ]
    }
    (tmp_path / "info.json").write_text(json.dumps(info))
    path = tmp_path / "capture"
    path.write_bytes(b"\n".join(capture_lines[:50]))
    assert replay(path, replayed, "--instruments", str(tmp_path / "info.json")) == 0
    (instrument,) = lines(replayed, "market.instruments.v1")
    assert instrument["tickSize"] == "1000000"
    assert instrument["lotSize"] == "1000"
    assert {event["instrument"] for event in lines(replayed, TRADES)} == {"binance.XBT-USDT"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no frames"),
        (b"not a capture\n", "line 1"),
        (b'1 {"stream":"a@trade","data":{}}\n2 {"stream":"a@tra\n', "line 2"),
        (b"1 {}\nx {}\n", "line 2"),
        (gzip.compress(b'1 {"e":"trade"}\n' * 10_000)[:-30], "truncated"),
        (gzip.compress(b'1 {"e":"x"}\n' * 9)[:20] + b"\xff" * 40, "gzip"),
        (b'1 {"e":"depthUpdate","E":1,"T":1,"s":"BTCUSDT","U":1,"u":2,"pu":0}\n', "USD-M futures"),
        (b'1 {"e":"bookTicker","u":1,"s":"BTCUSDT","b":"1","B":"1"}\n', "USD-M futures"),
        (b'1 {"e":"trade","s":"BTCUSDT","t":1,"X":"MARKET"}\n', "USD-M futures"),
        (b'1 {"e":"depthUpdate","s":"BTCUSD_PERP","ps":"BTCUSD","pu":0}\n', "COIN-M futures"),
    ],
)
def test_a_malformed_capture_is_told_with_its_place(
    content: bytes,
    expected: str,
    tmp_path: Path,
    replayed: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(content)
    assert replay(path, replayed) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(path) in error
    assert not list(replayed.glob("*.jsonl"))


def test_missing_files_and_unwritable_places_are_told(
    tmp_path: Path, capture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(tmp_path / "absent", tmp_path / "out") == 2
    assert "absent" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert replay(capture, tmp_path / "file" / "out") == 2
    assert "file" in capsys.readouterr().err
