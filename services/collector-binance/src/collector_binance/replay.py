"""`collector-binance replay`: process a capture with the same core, without network or Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from coinmesh_contracts.decimals import to_string
from coinmesh_sources.archive import CaptureError, is_archive, read_archive
from coinmesh_sources.inputs import Record
from coinmesh_sources.replay import Output
from collector_binance.capture import read_text, unsupported_market
from collector_binance.capture_engine import CaptureEngine
from collector_binance.core.book import Book
from collector_binance.core.book_parts import BookObserver
from collector_binance.core.compiled import load
from collector_binance.core.encode import WRITTEN, Headers
from collector_binance.core.engine import Engine
from collector_binance.core.instruments import VENUE, decode_exchange_info, decode_symbol_info
from collector_binance.core.market import Market
from collector_binance.core.messages import Level, decode_levels
from collector_binance.core.units import EXPONENT, DecimalError, parse

_TICK_NS: Final = 10**9


class BookTop(BookObserver):
    """Records the best bid and ask after each applied delta, as printed by the venue."""

    def __init__(self, symbol: str, lines: list[tuple[str, Mapping[str, object]]]) -> None:
        self._symbol, self._lines = symbol, lines
        self._texts: dict[tuple[int, int], Level] = {}

    def on_levels(self, bids: bytes, asks: bytes) -> None:
        """Store how prices and sizes are printed, unless they have the usual 8 decimals."""
        for level in (*decode_levels(bids), *decode_levels(asks)):
            if level[0][-9:-8] != "." or level[1][-9:-8] != ".":
                self._texts[parse(level[0]), parse(level[1])] = level

    def on_applied(self, book: Book) -> None:
        """Record the top of the book."""
        bid_price, bid_size, ask_price, ask_size = book.top
        line = {
            "u": book.last_id,
            "bid": self._print(bid_price, bid_size),
            "ask": self._print(ask_price, ask_size),
        }
        self._lines.append((self._symbol, line))

    def _print(self, price: int, size: int) -> Level:
        usual = (to_string(price, EXPONENT), to_string(size, EXPONENT))
        return self._texts.get((price, size), usual)


def replay(
    capture: Path,
    directory: Path,
    book_top: Path | None = None,
    instruments: Path | None = None,
) -> dict[str, int]:
    """Process a capture and return the number of events written, by topic.

    Raises:
        CaptureError: The capture or the instruments' file is malformed.
        OSError: An output path can't be written.
    """
    archive = is_archive(capture)
    headers, fast = Headers.offline(), load()
    engine = Engine(headers, fast=fast) if archive else CaptureEngine(headers, fast=fast)
    tops: list[tuple[str, Mapping[str, object]]] = []
    if book_top is not None and isinstance(engine, CaptureEngine):
        engine.on_market = lambda market: _watch(market, tops)
    with Output(directory, WRITTEN) as output:
        if instruments is not None:
            output.write(_define(engine, instruments))
        for records in _events(engine, capture, archive=archive):
            output.write(records)
        output.finish()
    if book_top is not None:
        _write_tops(book_top, tops)
    return output.counts


def events(capture: Path, engine: Engine) -> Iterator[list[Record]]:
    """Yield the events of a capture, input by input; as `replay`, without output."""
    return _events(engine, capture, archive=is_archive(capture))


def _events(engine: Engine, capture: Path, *, archive: bool) -> Iterator[list[Record]]:
    if archive:
        for given in read_archive(capture, VENUE):
            yield engine.apply(given)
            engine.commands.clear()
        return
    assert isinstance(engine, CaptureEngine)
    next_tick = 0
    for number, given in read_text(capture):
        market = unsupported_market(given.payload)
        if market is not None:
            raise CaptureError(
                f"{capture}, line {number}: a capture of Binance {market}; only spot is supported"
            )
        if given.receive_ns >= next_tick:
            yield engine.tick(given.receive_ns) or []
            next_tick = given.receive_ns + _TICK_NS
        out = engine.apply(given)
        if b'"depthUpdate"' in given.payload:
            engine.place_waiting(out)
        engine.commands.clear()
        if engine.counters.dead_letters.get("NOT_JSON"):
            raise CaptureError(f"{capture}, line {number}: the frame is not valid JSON")
        yield out
    if engine.sequence == 1:  # the connection alone
        raise CaptureError(f"{capture}: no frames in it")


def _watch(market: Market, lines: list[tuple[str, Mapping[str, object]]]) -> None:
    market.book.observer = BookTop(market.symbol, lines)


def _define(engine: Engine, path: Path) -> list[Record]:
    out: list[Record] = []
    try:
        for raw in decode_exchange_info(path.read_bytes()).symbols:
            engine.define(decode_symbol_info(raw), 0, out)
    except OSError as error:
        raise CaptureError(f"can't read the instruments {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, DecimalError, RecursionError) as error:
        raise CaptureError(f"{path}: not the exchange's exchangeInfo: {error}") from error
    return out


def _write_tops(path: Path, tops: list[tuple[str, Mapping[str, object]]]) -> None:
    """Write one line per delta; add its symbol if the capture has several."""
    several = len({symbol for symbol, _ in tops}) > 1
    encode = msgspec.json.Encoder().encode
    with path.open("wb") as file:
        for symbol, line in tops:
            file.write(encode({"symbol": symbol, **line} if several else line) + b"\n")
