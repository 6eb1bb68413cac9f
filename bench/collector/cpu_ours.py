"""Run one pass per line on standard input: CPU seconds from frames to framed Kafka-ready bytes.

With `recording` the frames are also batched for ingest.frames.v1, which cryptofeed doesn't do; with
`compiled` the compiled core is used.
"""

import sys
import time
from pathlib import Path

from frames import read

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.inputs import Input
from coinmesh_sources.recorder import FrameRecorder
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.compiled import load
from collector_binance.core.encode import Headers

LINK = "binance/bench/1"
BEGIN_NS = 1_723_161_253_937_085_768
JOINED = 7
TARGET = "GET /api/v3/depth?symbol=BTCUSDT&limit=5000"


def run(
    snapshot: bytes, frames: list[bytes], *, recording: bool, compiled: bool
) -> tuple[float, int]:
    """Return CPU seconds and records of one pass with a new engine, including the book's start."""
    fast = load() if compiled else None
    assert not compiled or fast is not None, "the compiled core was not built"
    engine = CaptureEngine(Headers.offline(), fast=fast)
    recorder = FrameRecorder("binance", 1, element=fast and fast.element)
    process, record = engine.process, recorder.message
    records, receive_ns = 0, BEGIN_NS
    began = time.process_time()
    for frame in frames[:JOINED]:
        records += len(process(frame, receive_ns, LINK))
    rest = Input(FrameKind.FRAME_KIND_REST, "binance/bench/0", receive_ns, snapshot, TARGET, 200)
    records += len(engine.apply(rest))
    if recording:
        for sequence, frame in enumerate(frames[JOINED:], JOINED + 1):
            receive_ns += 8_000_000
            records += len(process(frame, receive_ns, LINK))
            records += record(frame, receive_ns, LINK, sequence) is not None
    else:
        for frame in frames[JOINED:]:
            receive_ns += 8_000_000
            records += len(process(frame, receive_ns, LINK))
    seconds = time.process_time() - began
    assert engine.markets["BTCUSDT"].book.state == "live"
    return seconds, records


def main() -> None:
    """Answer each line with "seconds frames records"."""
    snapshot, frames = read(Path(sys.argv[1]), aggregated=False)
    for line in sys.stdin:
        how = line.split()
        seconds, records = run(
            snapshot, frames, recording="recording" in how, compiled="compiled" in how
        )
        print(seconds, len(frames), records, flush=True)


if __name__ == "__main__":
    main()
