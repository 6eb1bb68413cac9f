"""Text captures of every allowed kind: several symbols, raw streams, either unit, any snapshot."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from collector_binance.main import main
from collector_binance.testing import BEGIN_NS, Book, combined, trade


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, frames: list[bytes]) -> None:
    text = [b"%d %s" % (BEGIN_NS + n * 1_000_000, frame) for n, frame in enumerate(frames)]
    path.write_bytes(b"\n".join(text))


def raw(frame: bytes) -> bytes:
    return json.dumps(json.loads(frame)["data"]).encode()


@pytest.mark.parametrize("enveloped", [True, False])
@pytest.mark.parametrize("snapshots_first", [True, False])
def test_snapshots_find_their_symbols_though_their_ids_overlap(
    tmp_path: Path, *, enveloped: bool, snapshots_first: bool
) -> None:
    rng = random.Random(7)
    books = [Book(f"T{n}USDT", update_id=1000 + n) for n in range(3)]
    prices = [10**8, 50 * 10**8, 60_000 * 10**8]
    frames: list[bytes] = []
    tops: dict[tuple[str, int], tuple[list[str], list[str]]] = {}

    def change(index: int) -> None:
        book, base = books[index], prices[index]
        is_bid = rng.random() < 0.5
        price = base + (-1 if is_bid else 1) * rng.randrange(1, 30) * base // 10_000
        frames.append(book.change([(is_bid, price, rng.choice([0, 10**8, 3 * 10**8]))]))
        quote = json.loads(book.quote())["data"]
        tops[book.symbol, book.update_id] = (
            [quote["b"], quote["B"]],
            [quote["a"], quote["A"]],
        )
        frames.append(book.quote())

    for index in range(3):
        for _ in range(20):
            change(index)
    if snapshots_first:
        frames.clear()
        tops.clear()
    snapshots = [book.snapshot() for book in books]
    rng.shuffle(snapshots)
    frames += snapshots
    for _ in range(200):
        change(rng.randrange(3))
    own = [each if b"lastUpdateId" in each or enveloped else raw(each) for each in frames]
    write(tmp_path / "capture", own)
    arguments = ["replay", str(tmp_path / "capture"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--book-top", str(tmp_path / "top")]) == 0
    told = lines(tmp_path / "top")
    assert len(told) == 200
    for line in told:
        assert (line["bid"], line["ask"]) == tops[line["symbol"], line["u"]]
    assert lines(tmp_path / "out" / "ingest.gaps.v1.jsonl") == []
    assert lines(tmp_path / "out" / "ingest.dlq.v1.jsonl") == []


@pytest.mark.parametrize("factor", [1, 1000])
def test_the_unit_of_time_is_found_by_the_receive_clock(tmp_path: Path, factor: int) -> None:
    time = BEGIN_NS // 1_000_000 * factor
    write(tmp_path / "capture", [trade(1, T=time, E=time)])
    assert main(["replay", str(tmp_path / "capture"), "--out", str(tmp_path / "out")]) == 0
    (event,) = lines(tmp_path / "out" / "market.trades.v1.jsonl")
    assert event["eventTime"] == str(BEGIN_NS // 1000)


def test_the_top_is_printed_as_the_exchange_prints_it(tmp_path: Path) -> None:
    snapshot = b'{"lastUpdateId":9,"bids":[["100.5","2"]],"asks":[["101","3.25"]]}'
    data = {"e": "depthUpdate", "E": 1, "s": "AUSDT", "U": 10, "u": 11, "b": [], "a": []}
    write(tmp_path / "capture", [combined("depth@100ms", data, "AUSDT"), snapshot])
    arguments = ["replay", str(tmp_path / "capture"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--book-top", str(tmp_path / "top")]) == 0
    assert lines(tmp_path / "top") == [{"u": 11, "bid": ["100.5", "2"], "ask": ["101", "3.25"]}]
