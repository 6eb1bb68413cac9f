"""Read text captures (plain or gzip) as engine inputs.

Each line is a frame, `<receive time, ns> <frame>`: combined or raw stream messages, and REST depth
snapshots inline, without their symbol.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec
from msgspec import Struct

from coinmesh_contracts.events.v1.frame_batch_pb2 import FrameKind
from coinmesh_sources.archive import CaptureError
from coinmesh_sources.inputs import Input

REPLAY_CONNECTION: Final = "binance/replay/1"
_GZIP: Final = b"\x1f\x8b"


def read_text(path: Path) -> Iterator[tuple[int, Input]]:
    """Yield the inputs of a text capture with their line numbers; the first opens the connection.

    Raises:
        CaptureError: The file can't be read, or a line is not `<ns> <frame>`.
    """
    unit = "MICROSECOND" if _is_microseconds(path) else "MILLISECOND"
    url = f"capture:?timeUnit={unit}"
    kind = FrameKind.FRAME_KIND_CONNECT
    yield 0, Input(kind, REPLAY_CONNECTION, 0, context=url)
    for number, receive_ns, frame in _lines(path):
        yield number, Input(FrameKind.FRAME_KIND_MESSAGE, REPLAY_CONNECTION, receive_ns, frame)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    number = 0
    try:
        with _opened(path) as raw:
            compressed = raw.read(2) == _GZIP
            raw.seek(0)
            lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if compressed else raw
            for number, line in enumerate(lines, 1):
                text = line.rstrip(b"\r\n")
                if not text.strip():
                    continue
                yield (number, *_split(path, number, text))
    except EOFError as error:
        raise CaptureError(
            f"{path}: the gzip stream ends in the middle of line {number + 1}: the file is "
            "truncated; copy it again, or cut it at a whole line and compress it anew"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CaptureError(f"{path}, line {number + 1}: damaged gzip data: {error}") from error


def _split(path: Path, number: int, line: bytes) -> tuple[int, bytes]:
    time, space, frame = line.partition(b" ")
    if not space or not time.isdigit() or len(time) > 19 or frame[:1] not in (b"{", b"["):
        shown = line[:60].decode("utf-8", "replace")
        raise CaptureError(
            f"{path}, line {number}: expected `<receive time in ns> <JSON frame>`, found {shown!r}"
        )
    return int(time), frame


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise CaptureError(f"can't read the capture {path}: {error.strerror}") from error


def unsupported_market(frame: bytes) -> str | None:
    """Return the market of a non-spot frame; None for a spot frame or one of unknown market.

    Unlike spot frames, futures depth events contain the previous update id (pu), bookTicker an
    event type and trades a kind (X); COIN-M adds a pair (ps) or a perpetual symbol.
    https://developers.binance.com/docs/derivatives
    """
    if b'"pu":' in frame or b'"e":"bookTicker"' in frame or b'"X":"' in frame:
        return "COIN-M futures" if b'"ps":' in frame or b"USD_" in frame else "USD-M futures"
    return None


class _Timed(Struct):
    event_time: int | None = msgspec.field(name="E", default=None)


class _MaybeTimed(_Timed):
    data: _Timed | None = None


def _is_microseconds(path: Path) -> bool:
    """Return whether the venue's times in a capture are microseconds.

    A text capture doesn't contain its connection's URL, so the unit is inferred once for the whole
    capture: the one in which the first event time is nearer to its receive time.
    """
    decode = msgspec.json.Decoder(_MaybeTimed).decode
    for _, receive_ns, frame in _lines(path):
        try:
            message = decode(frame)
        except (msgspec.DecodeError, RecursionError):
            continue
        time = message.event_time or (message.data.event_time if message.data else None)
        if time is not None:
            return abs(time * 1_000 - receive_ns) < abs(time * 1_000_000 - receive_ns)
    return False
