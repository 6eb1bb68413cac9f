"""The engine's counters as metrics, read at scrape time."""

from __future__ import annotations

from collections.abc import Callable

from collector_binance.core.engine import Engine
from collector_binance.core.market import Market
from collector_binance.core.messages import Channel
from meshkit.metrics import Metrics

Values = dict[tuple[str, ...], float]


def export(engine: Engine, metrics: Metrics) -> None:
    """Register the metrics of all instruments."""

    def by_channel(read: Callable[[Market, Channel], int]) -> Callable[[], Values]:
        return lambda: {
            (market.encoder.instrument, channel.value): read(market, channel)
            for market in list(engine.markets.values())
            for channel in Channel
        }

    def by_market(read: Callable[[Market], int]) -> Callable[[], Values]:
        return lambda: {
            (market.encoder.instrument,): read(market) for market in list(engine.markets.values())
        }

    channel_labels, labels = ("instrument", "channel"), ("instrument",)
    metrics.read_counter(
        "source_events",
        "Events published",
        channel_labels,
        by_channel(lambda market, channel: market.stream(channel).events),
    )
    metrics.read_counter(
        "source_duplicates",
        "Duplicates dropped",
        channel_labels,
        by_channel(lambda market, channel: market.stream(channel).duplicates),
    )
    metrics.read_counter(
        "source_gaps",
        "Gaps found",
        channel_labels,
        by_channel(lambda market, channel: market.gaps.opened.get(channel.value, 0)),
    )
    metrics.read_gauge(
        "source_open_gaps",
        "Gaps that are not closed",
        labels,
        by_market(lambda market: len(market.gaps.open_gaps)),
    )
    metrics.read_counter(
        "binance_book_resyncs",
        "Books rebuilt after a gap",
        labels,
        by_market(lambda market: market.book.resyncs),
    )
    metrics.read_counter(
        "binance_book_audits_matching",
        "Audits in which the book's top was bookTicker's",
        labels,
        by_market(lambda market: market.book.audit.matches),
    )
    metrics.read_counter(
        "binance_book_audits_differing",
        "Audits in which the book's top differed from bookTicker",
        labels,
        by_market(lambda market: market.book.audit.differences),
    )
    metrics.read_counter(
        "binance_kline_mismatches",
        "Closed klines that our trades' bars contradict",
        labels,
        by_market(lambda market: market.klines.mismatches),
    )
    metrics.read_counter(
        "source_dead_letters",
        "Inputs that could not be used",
        ("reason",),
        lambda: {(why,): count for why, count in engine.counters.dead_letters.copy().items()},
    )
    metrics.read_counter(
        "source_ignored_messages",
        "Messages of streams that are not collected",
        (),
        lambda: {(): engine.counters.ignored},
    )
