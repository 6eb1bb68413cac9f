"""The current state of a replica from the live topics: the newest values per instrument.

It is fed in the order of the topics and has no I/O. Repeated and outdated events change nothing, so
replays and the overlap with Redis and Cassandra are harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from google.protobuf.message import Message

from coinmesh_contracts import topics
from coinmesh_contracts.decimals import to_string
from coinmesh_contracts.events.v1.bar_pb2 import Bar as BarEvent
from coinmesh_contracts.events.v1.book_update_pb2 import BookUpdate
from coinmesh_contracts.events.v1.indicator_value_pb2 import IndicatorValue
from coinmesh_contracts.events.v1.instrument_pb2 import Instrument
from coinmesh_contracts.events.v1.quote_pb2 import Quote as QuoteEvent
from coinmesh_contracts.events.v1.trade_pb2 import Trade as TradeEvent
from coinmesh_contracts.serving import INTERVALS
from query_gateway import bars, trades
from query_gateway.bars import BarRow
from query_gateway.book import OrderBook, check_exponents
from query_gateway.day_figures import DayFigures
from query_gateway.intervals import NAME_OF_SECONDS
from query_gateway.trades import TradeRing, TradeRow

LIVE_TOPICS: Final = (
    topics.INSTRUMENTS,
    topics.TRADES,
    topics.QUOTES,
    topics.BOOKS,
    topics.BARS,
    topics.INDICATORS,
    topics.LIVENESS,
)
KEPT_WINDOWS: Final = 30
"""Number of newest windows kept per instrument and interval; they only bridge the time between a
bar's arrival through Kafka and in Cassandra, where it is written first."""


class QuoteRow(NamedTuple):
    """Best bid and ask; a side without orders has empty strings."""

    update_id: int
    bid_price: str
    bid_size: str
    ask_price: str
    ask_size: str
    receive_time_ns: int


class IndicatorRow(NamedTuple):
    """One value of an indicator; `name` is indicator, period and output joined by "/"."""

    start_ms: int
    name: str
    value: str
    revision: int
    layer: int
    run: str

    @property
    def key(self) -> tuple[int, str]:
        """Return the sort key in a listing."""
        indicator, period, output = self.name.split("/", 2)
        return self.start_ms, f"{indicator}/{int(period):010d}/{output}"

    @property
    def version(self) -> tuple[int, int]:
        """Return the version; of two values for one window and name the higher version is valid."""
        return self.layer, self.revision


Row: TypeAlias = TradeRow | QuoteRow | BarRow


class News(NamedTuple):
    """An update of the live stream; `interval` is "" for all but bars."""

    channel: str
    instrument: str
    interval: str
    row: Row


@dataclass(slots=True)
class Series:
    """The newest bars of one instrument and interval."""

    rows: dict[int, BarRow] = field(default_factory=dict[int, BarRow])
    newest_ms: int = -1
    late: str = ""

    def put(self, row: BarRow) -> bool:
        """Add a bar; return False if a newer version is present."""
        known = self.rows.get(row.start_ms)
        if known is not None and known.version >= row.version:
            return False
        self.rows[row.start_ms] = row
        if row.start_ms < self.newest_ms:
            self.late = f"{row.start_ms}.{row.layer}.{row.revision}"
        else:
            self.newest_ms = row.start_ms
        if len(self.rows) > 2 * KEPT_WINDOWS:
            for start in sorted(self.rows)[:-KEPT_WINDOWS]:
                del self.rows[start]
        return True

    @property
    def fingerprint(self) -> str:
        """Return a text that changes with every bar: newest version and last late change."""
        newest = self.rows.get(self.newest_ms)
        version = f"{newest.start_ms}.{newest.layer}.{newest.revision}" if newest else ""
        return f"{version}:{self.late}"


class LiveView:
    """The newest state of every instrument.

    Attributes:
        unloaded: Instruments whose stored history isn't loaded yet: their day statistics lack it.
    """

    def __init__(self, kept_trades: int) -> None:
        self._kept_trades = kept_trades
        self.instruments: dict[str, Instrument] = {}
        self.quotes: dict[str, QuoteRow] = {}
        self.books: dict[str, OrderBook] = {}
        self.day = DayFigures()
        self.unloaded: set[str] = set()
        self.book_holes = 0
        self._trades: dict[str, TradeRing] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._indicators: dict[tuple[str, str], dict[int, dict[str, IndicatorRow]]] = {}
        self._newest_ms: dict[str, int] = {}
        self._closed_until: dict[str, int] = {}

    def apply(self, message: Message, offset: int = -1) -> News | None:
        """Apply the next event of a live topic with its offset; return its update, if any.

        Raises:
            ValueError: A value is invalid; the event is not applied.
        """
        match message:
            case TradeEvent():
                return self._trade(message, offset)
            case QuoteEvent():
                return self._quote(message)
            case BookUpdate():
                book = self.books.setdefault(message.instrument, OrderBook())
                self.book_holes += not book.apply(message)
            case BarEvent():
                return self._bar(message)
            case IndicatorValue():
                self._indicator(message)
            case Instrument():
                check_exponents(message.price_exponent, message.size_exponent)
                self.instruments[message.instrument] = message
            case _:
                pass
        return None

    def put_trade(self, instrument: str, row: TradeRow, offset: int = -1) -> bool:
        """Add a trade from any source; return False if it is present."""
        ring = self._trades.get(instrument)
        if ring is None:
            ring = self._trades[instrument] = TradeRing(self._kept_trades)
        return ring.add(row, offset)

    def put_quote(self, instrument: str, row: QuoteRow) -> bool:
        """Set a quote from any source; return False if a newer one is present."""
        known = self.quotes.get(instrument)
        if known is not None and known.update_id >= row.update_id:
            return False
        self.quotes[instrument] = row
        return True

    def put_bar(self, instrument: str, interval: str, row: BarRow) -> bool:
        """Add a bar from any source; return False if a newer version is present."""
        self._note(instrument, interval, row)
        return self.series(instrument, interval).put(row)

    def put_history(self, instrument: str, interval: str, rows: list[BarRow]) -> None:
        """Add stored bars to the day statistics; they are neither published nor kept as bars."""
        for row in rows:
            self._note(instrument, interval, row)

    def newest_ms(self, instrument: str) -> int:
        """Return the start of an instrument's newest known bar; 0 if none is known."""
        return self._newest_ms.get(instrument, 0)

    def closed_until(self, instrument: str) -> int:
        """Return the latest end of a known final bar: the watermark has passed it."""
        return self._closed_until.get(instrument, 0)

    def ranking(self, leaderboard: str) -> list[tuple[str, Decimal]]:
        """Return the instruments with loaded history and their value, best first."""
        ranking = self.day.ranking(leaderboard)
        return [entry for entry in ranking if entry[0] not in self.unloaded]

    def series(self, instrument: str, interval: str) -> Series:
        """Return the newest bars of a stored interval."""
        return self._series.setdefault((instrument, interval), Series())

    def bars(self, instrument: str, interval: str, low_ms: int, high_ms: int) -> list[BarRow]:
        """Return the known bars of a stored interval that start in [low, high), unordered."""
        rows = self.series(instrument, interval).rows
        return [row for start, row in rows.items() if low_ms <= start < high_ms]

    def last_trade(self, instrument: str) -> TradeRow | None:
        """Return the last trade, if one is known."""
        ring = self._trades.get(instrument)
        return ring.newest if ring else None

    def trade_ring(self, instrument: str) -> TradeRing:
        """Return the newest trades; an empty ring if there are none."""
        return self._trades.get(instrument) or TradeRing(self._kept_trades)

    def indicators(
        self, instrument: str, interval: str, low_ms: int, high_ms: int
    ) -> list[IndicatorRow]:
        """Return the known values whose window starts in [low, high), unordered."""
        windows = self._indicators.get((instrument, interval), {})
        return [
            row
            for start, rows in windows.items()
            if low_ms <= start < high_ms
            for row in rows.values()
        ]

    def _note(self, instrument: str, interval: str, row: BarRow) -> None:
        if interval == "1m":
            self.day.put(instrument, row)
        if row.start_ms > self._newest_ms.get(instrument, -1):
            self._newest_ms[instrument] = row.start_ms
        end = row.start_ms + INTERVALS[interval] * 1000
        if row.final and end > self._closed_until.get(instrument, 0):
            self._closed_until[instrument] = end

    def _trade(self, event: TradeEvent, offset: int) -> News | None:
        if not event.HasField("event_time"):
            return None  # it can't be ordered by time
        row = trades.from_event(event)
        if not self.put_trade(event.instrument, row, offset):
            return None
        return News("trade", event.instrument, "", row)

    def _quote(self, event: QuoteEvent) -> News | None:
        price, size = event.price_exponent, event.size_exponent
        check_exponents(price, size)
        has_bid = bool(event.bid_price_units or event.bid_size_units)
        has_ask = bool(event.ask_price_units or event.ask_size_units)
        row = QuoteRow(
            event.update_id,
            to_string(event.bid_price_units, price) if has_bid else "",
            to_string(event.bid_size_units, size) if has_bid else "",
            to_string(event.ask_price_units, price) if has_ask else "",
            to_string(event.ask_size_units, size) if has_ask else "",
            event.receive_time,
        )
        if not self.put_quote(event.instrument, row):
            return None
        return News("quote", event.instrument, "", row)

    def _bar(self, event: BarEvent) -> News | None:
        interval = NAME_OF_SECONDS.get(event.interval_seconds)
        if interval is None:
            return None
        check_exponents(event.price_exponent)
        row = bars.from_event(event)
        if not self.put_bar(event.instrument, interval, row):
            return None
        return News("bar", event.instrument, interval, row)

    def _indicator(self, event: IndicatorValue) -> None:
        interval = NAME_OF_SECONDS.get(event.interval_seconds)
        if interval is None:
            return
        row = IndicatorRow(
            event.event_time // 1000,
            f"{event.indicator}/{event.period}/{event.output}",
            event.value,
            event.revision,
            event.layer,
            event.run,
        )
        windows = self._indicators.setdefault((event.instrument, interval), {})
        values = windows.setdefault(row.start_ms, {})
        known = values.get(row.name)
        if known is None or known.version < row.version:
            values[row.name] = row
        if len(windows) > 2 * KEPT_WINDOWS:
            for start in sorted(windows)[:-KEPT_WINDOWS]:
                del windows[start]
