"""The recorded capture as an exchange sends it, with our streams and with cryptofeed's."""

import gzip
import json
import os
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def capture_path() -> Path:
    """Return the path of the recorded capture."""
    default = CHECKOUT.parent / "shared" / "recorded"
    folder = Path(os.environ.get("COINMESH_RECORDED", default))
    return folder / "binance" / "spot_btcusdt_20240808.gz"


def read(path: Path, *, aggregated: bool) -> tuple[bytes, list[bytes]]:
    """Return the depth snapshot and the frames.

    cryptofeed reads trades from aggTrade: with `aggregated` each trade becomes an aggregate of
    itself.
    """
    snapshot = b""
    frames: list[bytes] = []
    with gzip.open(path) as file:
        for line in file:
            frame = line.rstrip(b"\n").partition(b" ")[2]
            if frame.startswith(b'{"lastUpdateId"'):
                snapshot = frame
            elif aggregated and b"@trade" in frame:
                frames.append(_aggregate(frame))
            else:
                frames.append(frame)
    return snapshot, frames


def _aggregate(frame: bytes) -> bytes:
    envelope = json.loads(frame)
    data = envelope["data"]
    number = data.pop("t")
    data |= {"e": "aggTrade", "a": number, "f": number, "l": number}
    stream = envelope["stream"].replace("@trade", "@aggTrade")
    return json.dumps({"stream": stream, "data": data}, separators=(",", ":")).encode()
