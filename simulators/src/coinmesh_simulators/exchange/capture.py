"""Captures: `<receive ns> <frame>` lines, gzipped or plain, read as a stream.

Frames are combined-stream messages; an inline REST depth snapshot is a separate line. A first pass
(`survey`) validates every line and derives the properties needed for playback: symbols, tick and
lot, streams, snapshots and the clocks' offset.
"""

import gzip
import hashlib
import logging
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from coinmesh_simulators.exchange.amounts import power_of_ten_below, to_units
from coinmesh_simulators.exchange.book import Change, Side
from coinmesh_simulators.exchange.instruments import Instrument

_log = logging.getLogger(__name__)

Level = tuple[str, str]


class CaptureError(ValueError):
    """Raised when a capture can't be played; the message has file, line and reason."""


class _Line(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    last_update_id: int | None = msgspec.field(default=None, name="lastUpdateId")
    bids: list[Level] = []
    asks: list[Level] = []
    symbol: str = ""


class TradeData(msgspec.Struct):
    """Fields of a `trade` payload."""

    E: int
    s: str
    t: int
    p: str
    q: str
    T: int
    m: bool


class AggregateData(msgspec.Struct):
    """Fields of an `aggTrade` payload."""

    E: int
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - the venue's field name
    T: int
    m: bool


class QuoteData(msgspec.Struct):
    """Fields of a `bookTicker` payload."""

    u: int
    s: str
    b: str
    B: str
    a: str
    A: str


class DepthData(msgspec.Struct):
    """Fields of a `depthUpdate` payload."""

    E: int
    s: str
    U: int
    u: int
    b: list[Level]
    a: list[Level]


class _OtherData(msgspec.Struct):
    E: int = 0


class SnapshotData(msgspec.Struct):
    """An inline REST depth snapshot; `symbol` is empty where the line doesn't contain it."""

    update_id: int
    bids: list[Level]
    asks: list[Level]
    symbol: str = ""

    def changes(self) -> Iterator[Change]:
        """Return the snapshot's levels."""
        return level_changes(self.bids, self.asks)


Payload = TradeData | AggregateData | QuoteData | DepthData | SnapshotData | _OtherData

_line = msgspec.json.Decoder(_Line)
_decoders: dict[str, msgspec.json.Decoder[Payload]] = {
    "trade": msgspec.json.Decoder(TradeData),
    "aggTrade": msgspec.json.Decoder(AggregateData),
    "bookTicker": msgspec.json.Decoder(QuoteData),
    "depth": msgspec.json.Decoder(DepthData),
    "depth@100ms": msgspec.json.Decoder(DepthData),
}
_other = msgspec.json.Decoder(_OtherData)


@dataclass(slots=True)
class Frame:
    """One line: `kind` is the stream's name after the symbol, "" for a snapshot.

    `raw` is the payload's bytes exactly as recorded.
    """

    line: int
    receive_ns: int
    stream: str
    kind: str
    data: Payload
    raw: bytes


@dataclass(slots=True)
class SymbolSurvey:
    """The content of a capture for one symbol."""

    symbol: str
    kinds: set[str] = field(default_factory=set)
    price_divisor: int = 0
    size_divisor: int = 0
    depth_size_divisor: int = 0
    last_price: int = 0
    first_update: int = 0
    last_update: int = 0
    snapshots: list[SnapshotData] = field(default_factory=list)

    def instrument(self) -> Instrument:
        """Return the instrument, whose tick and lot are derived from the observed amounts.

        Each is the largest power of ten that divides all of them. The lot is derived from trades
        and best quotes: deep levels of a real book contain sizes from times with another lot.
        """
        return Instrument(
            self.symbol,
            power_of_ten_below(self.price_divisor),
            power_of_ten_below(self.size_divisor or self.depth_size_divisor),
            self.last_price,
        )

    def observe(self, price: str, size: str) -> None:
        """Include a trade or a best quote."""
        self.price_divisor = math.gcd(self.price_divisor, to_units(price))
        self.size_divisor = math.gcd(self.size_divisor, to_units(size))

    def observe_levels(self, levels: list[Level]) -> None:
        """Include the levels of a depth event."""
        for price, size in levels:
            self.price_divisor = math.gcd(self.price_divisor, to_units(price))
            self.depth_size_divisor = math.gcd(self.depth_size_divisor, to_units(size))


@dataclass(slots=True)
class Survey:
    """A validated capture. `offset_us` is the exchange's clock minus the receive clock."""

    path: Path
    symbols: dict[str, SymbolSurvey]
    first_ns: int
    last_ns: int
    offset_us: int
    micro: bool

    @property
    def begin_us(self) -> int:
        """Return the exchange's clock at the first frame."""
        return self.first_ns // 1000 + self.offset_us

    @property
    def end_us(self) -> int:
        """Return the exchange's clock at the last frame."""
        return self.last_ns // 1000 + self.offset_us


def level_changes(bids: list[Level], asks: list[Level]) -> Iterator[Change]:
    """Yield a message's levels as changes of the book."""
    for price, size in bids:
        yield Change(Side.BID, to_units(price), to_units(size))
    for price, size in asks:
        yield Change(Side.ASK, to_units(price), to_units(size))


def frames(path: Path) -> Iterator[Frame]:
    """Yield all frames of a capture in file order, without control replies and shutdown notices.

    Raises:
        CaptureError: A line is malformed; the message has its number.
    """
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    frame = _parse(number, line)
                    if frame is not None:
                        yield frame
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CaptureError(f"capture {path}, line {number}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"capture {path}, after line {number}: {error}") from error


def _parse(number: int, line: bytes) -> Frame | None:
    receive, separator, body = line.partition(b" ")
    if not separator or not receive.isdigit() or len(receive) != 19:
        found = line[:40].decode("utf-8", "replace")
        raise ValueError(f"expected `<receive time in ns> <JSON frame>`, found {found!r}")
    decoded = _line.decode(body)
    if decoded.last_update_id is not None:
        data = SnapshotData(decoded.last_update_id, decoded.bids, decoded.asks, decoded.symbol)
        return Frame(number, int(receive), "", "", data, b"")
    if not decoded.stream or decoded.stream.startswith("!"):
        return None
    symbol, _, kind = decoded.stream.partition("@")
    if not symbol or not kind:
        raise ValueError(f"{decoded.stream!r} is not a stream name such as btcusdt@trade")
    raw = bytes(decoded.data)
    data = _decoders.get(kind, _other).decode(raw)
    return Frame(number, int(receive), decoded.stream, kind, data, raw)


def identity(path: Path) -> str:
    """Return an identifier of a capture: a digest of its beginning, and its size.

    Raises:
        CaptureError: The capture can't be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(1 << 20)).hexdigest()[:16]
        return f"{digest}-{path.stat().st_size}"
    except OSError as error:
        raise CaptureError(f"capture {path}: {error.strerror}") from error


def survey(path: Path) -> Survey:
    """Read a capture once.

    Raises:
        CaptureError: It is malformed or contains no frames.
    """
    symbols: dict[str, SymbolSurvey] = {}
    unattributed: list[SnapshotData] = []
    first = last = 0
    skews: list[int] = []
    micro = False
    for frame in frames(path):
        first = first or frame.receive_ns
        last = max(last, frame.receive_ns)
        data = frame.data
        if isinstance(data, SnapshotData):
            unattributed.append(data)
            continue
        name = getattr(data, "s", "") or frame.stream.partition("@")[0].upper()
        entry = symbols.get(name)
        if entry is None:
            entry = symbols[name] = SymbolSurvey(name)
        entry.kinds.add(frame.kind)
        try:
            _observe(entry, data)
        except ValueError as error:
            raise CaptureError(f"capture {path}, line {frame.line}: {error}") from error
        event_time: int = getattr(data, "E", 0)
        if event_time:
            micro = event_time > 10**14
            skews.append(event_time * (1 if micro else 1000) - frame.receive_ns // 1000)
    if not symbols:
        raise CaptureError(f"capture {path}: no stream frames in it")
    for snapshot in unattributed:
        _attribute(snapshot, symbols)
    return Survey(path, symbols, first, last, max(skews, default=0), micro)


def _observe(entry: SymbolSurvey, data: Payload) -> None:
    match data:
        case TradeData() | AggregateData():
            entry.observe(data.p, data.q)
            entry.last_price = to_units(data.p)
        case QuoteData():
            entry.observe(data.b, data.B)
            entry.observe(data.a, data.A)
            entry.last_price = entry.last_price or to_units(data.b)
        case DepthData():
            entry.observe_levels(data.b)
            entry.observe_levels(data.a)
            entry.first_update = entry.first_update or data.U
            entry.last_update = data.u
        case _:
            pass


def _attribute(snapshot: SnapshotData, symbols: dict[str, SymbolSurvey]) -> None:
    """Assign a snapshot to its symbol: by name, else by update id range and nearest price."""
    named = symbols.get(snapshot.symbol.upper())
    if named is not None:
        named.snapshots.append(snapshot)
        return
    middle = to_units(snapshot.bids[0][0]) if snapshot.bids else 0

    def distance(entry: SymbolSurvey) -> float:
        if not middle or not entry.last_price:
            return math.inf
        return abs(math.log(middle / entry.last_price))

    fitting = [
        entry
        for entry in symbols.values()
        if entry.first_update and entry.first_update - 1 <= snapshot.update_id <= entry.last_update
    ]
    if not fitting:
        _log.warning("no symbol has the snapshot with lastUpdateId %d", snapshot.update_id)
        return
    min(fitting, key=distance).snapshots.append(snapshot)
