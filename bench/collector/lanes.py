"""Collector benchmark: what each lane of the compiled core saves.

    .venv/bin/python bench/collector/lanes.py [--rounds 9]

The frames of each lane's stream alone, and then the complete capture with raw frames recorded, are
processed by the complete compiled core, without one lane, and in Python. All of them take turns
within one run; the result is the lowest CPU time of the rounds. `element` serializes recorded
frames, so its frames are the complete capture, and they are only recorded.
"""

import argparse
import gc
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cpu_ours import BEGIN_NS, JOINED, LINK, TARGET
from frames import capture_path, read

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input
from coinmesh_sources.recorder import Element, FrameRecorder
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.compiled import load
from collector_binance.core.encode import Headers
from collector_binance.core.market import Market
from collector_binance.core.messages import CHANNEL_OF, Channel

if TYPE_CHECKING:
    from collector_binance.core._fast import Fast, Lane

ELEMENT = "element"
LANES = (Channel.TRADE, Channel.QUOTE, Channel.BOOK)
Frames = list[tuple[bytes, int, int]]
"""Payload, receive time (ns) and sequence."""


def without(fast: "type[Fast]", channel: Channel) -> "type[Fast]":
    """Return the compiled core without one lane; Python processes its frames."""

    def lanes(self: "Fast", market: Market) -> "dict[Channel, Lane]":
        kept = fast.lanes(self, market)
        del kept[channel]
        return kept

    return type(f"Without{channel.name.title()}", (fast,), {"lanes": lanes})


@dataclass
class Case:
    """One core's processing of one selection of frames."""

    frames: Frames
    fast: "type[Fast] | None"
    element: Element | None = None
    is_processed: bool = True
    is_recorded: bool = False
    seconds: list[float] = field(default_factory=list)
    records: int = 0

    def run(self, snapshot: bytes, first: Frames) -> None:
        """Time one pass of a new engine, after its book's start."""
        engine = CaptureEngine(Headers.offline(), fast=self.fast)
        recorder = FrameRecorder("binance", 1, element=self.element)
        process, record = engine.process, recorder.message
        for frame, receive_ns, _ in first:
            process(frame, receive_ns, LINK)
        kind, connection = FrameKind.FRAME_KIND_REST, "binance/bench/0"
        engine.apply(Input(kind, connection, first[-1][1], snapshot, TARGET, 200))
        records = 0
        gc.collect()
        began = time.process_time()
        if self.is_processed and self.is_recorded:
            for frame, receive_ns, sequence in self.frames:
                records += len(process(frame, receive_ns, LINK))
                records += record(frame, receive_ns, LINK, sequence) is not None
        elif self.is_processed:
            for frame, receive_ns, _ in self.frames:
                records += len(process(frame, receive_ns, LINK))
        else:
            for frame, receive_ns, sequence in self.frames:
                records += record(frame, receive_ns, LINK, sequence) is not None
        self.seconds.append(time.process_time() - began)
        self.records = records
        assert engine.markets["BTCUSDT"].book.state == "live"

    @property
    def cost(self) -> float:
        """Return CPU microseconds per frame."""
        return min(self.seconds) / len(self.frames) * 1e6


def channel_of(frame: bytes) -> Channel | None:
    """Return the channel of `{"stream":"btcusdt@trade", ...`."""
    return CHANNEL_OF.get(frame.split(b'"', 4)[3].partition(b"@")[2].decode())


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    if not capture_path().exists():
        sys.exit(f"no capture at {capture_path()}; set COINMESH_RECORDED to its folder")
    fast = load()
    if fast is None:
        sys.exit("the compiled core was not built")
    snapshot, payloads = read(capture_path(), aggregated=False)
    every = [(each, BEGIN_NS + n * 8_000_000, n) for n, each in enumerate(payloads, 1)]
    first, every = every[:JOINED], every[JOINED:]

    cases: dict[tuple[str, str], Case] = {}
    for channel in LANES:
        own = [each for each in every if channel_of(each[0]) is channel]
        less = without(fast, channel)
        cases |= {(channel, "all"): Case(own, fast), (channel, "less"): Case(own, less)}
        cases[channel, "python"] = Case(own, None)
        cases["capture", channel] = Case(every, less, fast.element, is_recorded=True)
    cases[ELEMENT, "all"] = Case(every, fast, fast.element, is_processed=False, is_recorded=True)
    cases[ELEMENT, "less"] = Case(every, fast, is_processed=False, is_recorded=True)
    cases[ELEMENT, "python"] = Case(every, None, is_processed=False, is_recorded=True)
    cases["capture", ELEMENT] = Case(every, fast, is_recorded=True)
    cases["capture", "all"] = Case(every, fast, fast.element, is_recorded=True)
    cases["capture", "python"] = Case(every, None, is_recorded=True)
    for _ in range(rounds):
        for case in cases.values():
            case.run(snapshot, first)
    made = {row: {case.records for key, case in cases.items() if key[0] == row} for row, _ in cases}
    assert all(len(each) == 1 for each in made.values()), f"the cores differ: {made}"

    cost = {key: case.cost for key, case in cases.items()}
    whole, python = cost["capture", "all"], cost["capture", "python"]
    print(f"{rounds} rounds, load average {os.getloadavg()[0]:.1f}; CPU µs/frame")
    print("| lane | share of frames | complete core | without the lane | Python ", end="")
    print("| without ÷ complete | Python ÷ complete | capture without the lane | CPU saved |")
    print("| --- " * 9 + "|")
    for lane in (*LANES, ELEMENT):
        ours, less, pure = (cost[lane, how] for how in ("all", "less", "python"))
        share, total = len(cases[lane, "all"].frames) / len(every), cost["capture", lane]
        print(f"| {lane} | {share:.1%} | {ours:.2f} | {less:.2f} | {pure:.2f} ", end="")
        print(f"| {less / ours:.2f} | {pure / ours:.2f} | {total:.2f} | {1 - whole / total:.0%} |")
    print(f"complete capture: {whole:.2f}, in Python {python:.2f}, {python / whole:.1f} × more")


if __name__ == "__main__":
    main()
