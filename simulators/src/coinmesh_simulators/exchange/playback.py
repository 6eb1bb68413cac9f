"""Playback of a capture: each recorded frame changes its symbol's market and is published."""

import re
from functools import partial

from coinmesh_simulators.exchange.amounts import to_units
from coinmesh_simulators.exchange.book import Top
from coinmesh_simulators.exchange.capture import (
    AggregateData,
    DepthData,
    Frame,
    QuoteData,
    SnapshotData,
    Survey,
    TradeData,
    level_changes,
)
from coinmesh_simulators.exchange.market import SymbolMarket
from coinmesh_simulators.exchange.store import TradeRow

_TIMES = re.compile(rb'"([ET])":\s*(\d{13,16})(?=\s*[,}])')
_KLINE_TIMES = re.compile(rb'"([EtT])":\s*(\d{13,16})(?=\s*[,}])')


class Playback:
    """Apply a capture's frames, with event times shifted by `shift` (µs)."""

    def __init__(self, survey: Survey, markets: dict[str, SymbolMarket], shift: int) -> None:
        self._survey = survey
        self._markets = markets
        self._shift = shift
        self._unit = 1 if survey.micro else 1000
        self._snapshots = {name: list(entry.snapshots) for name, entry in survey.symbols.items()}
        for name, entry in survey.symbols.items():
            market = markets[name]
            # Bars are aligned to the minute, which a shift would break: then they are derived.
            market.recorded = {
                kind for kind in entry.kinds if not (shift and kind.startswith("kline_"))
            }
            self._take_snapshot(market, 0)

    def _take_snapshot(self, market: SymbolMarket, at_least: int) -> None:
        """Set the book from the next snapshot with at least the given update id."""
        waiting = self._snapshots[market.instrument.symbol]
        while waiting:
            snapshot = waiting.pop(0)
            if snapshot.update_id >= at_least:
                market.book.reset(snapshot.update_id, snapshot.changes())
                return

    def market_time(self, frame: Frame) -> int:
        """Return when a frame is due on the exchange's clock (µs)."""
        return frame.receive_ns // 1000 + self._survey.offset_us + self._shift

    def apply(self, frame: Frame) -> None:
        """Apply one frame."""
        data = frame.data
        if isinstance(data, SnapshotData):
            return  # known since the survey: REST returns it from the start
        name = getattr(data, "s", "") or frame.stream.partition("@")[0].upper()
        market = self._markets[name]
        payload = partial(self._payload, frame.raw, frame.kind)
        match data:
            case TradeData():
                price, quantity = to_units(data.p), to_units(data.q)
                row = TradeRow(data.t, price, quantity, self._time(data.T), data.m, -1)
                market.trade(row, self._time(data.E), payload)
            case QuoteData():
                top = Top(to_units(data.b), to_units(data.B), to_units(data.a), to_units(data.A))
                market.recorded_quote(data.u, top, payload)
            case DepthData():
                book = market.book
                if book.update_id and max(book.update_id, market.depth_id) + 1 < data.U:
                    self._take_snapshot(market, data.U - 1)
                changes = list(level_changes(data.b, data.a))
                market.recorded_depth(frame.kind, data.U, data.u, changes, payload)
            case AggregateData():
                market.recorded_aggregate(data.a, data.f, data.l, to_units(data.p), payload)
            case _:
                if frame.kind in market.recorded:
                    market.pass_on(frame.kind, payload)

    def _time(self, recorded: int) -> int:
        return recorded * self._unit + self._shift

    def _payload(self, raw: bytes, kind: str, micro: bool) -> bytes:
        if not self._shift and micro == self._survey.micro:
            return raw
        wanted = 1 if micro else 1000

        def moved(match: re.Match[bytes]) -> bytes:
            return b'"%b":%d' % (match[1], self._time(int(match[2])) // wanted)

        return (_KLINE_TIMES if kind.startswith("kline_") else _TIMES).sub(moved, raw)
