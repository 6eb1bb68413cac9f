"""Restore: checkpoints and the topics' tails, read from lists instead of Kafka."""

from types import SimpleNamespace
from typing import Any

import pytest
from restore_log import (
    INSTRUMENT,
    LOST,
    OPEN,
    REPAIRED,
    SINCE,
    SYMBOL,
    Kafka,
    Record,
    book,
    gap,
    late,
    marker,
    record,
    saved,
    trade,
)

from coinmesh_contracts import framing, topics
from coinmesh_contracts.events.v1.checkpoint_pb2 import OpenGap
from coinmesh_contracts.events.v1.gap_pb2 import GapCause, GapState
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources import checkpoints
from collector_binance.core.session import Continuation, SavedGap
from collector_binance.restore import restore
from meshkit.offsets import Since


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    kafka = Kafka()
    monkeypatch.setattr(checkpoints, "read_to_end", kafka.read_to_end)
    return kafka


async def read() -> dict[str, Continuation]:
    settings: Any = SimpleNamespace(service_name="collector")
    saved = await checkpoints.read(settings, "binance", "collector")
    return (await restore(settings, saved)).symbols


async def test_nothing_is_continued_without_a_round(kafka: Kafka) -> None:
    kafka.put(topics.TRADES, trade(5))
    assert await read() == {}
    assert kafka.reads == [(topics.CHECKPOINTS.name, "beginning")]


async def test_round_of_another_collector_does_not_count(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 7), marker("collector-b"))
    (left,) = (await read()).values()
    assert left.trade_id == 7
    assert len(kafka.reads) == 1, "no tail"


async def test_only_the_tail_since_the_last_round_is_read(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, marker())
    await read()
    tails = [(topic.name, Since(SINCE)) for topic in (topics.TRADES, topics.GAPS, topics.BOOKS)]
    assert kafka.reads[1:] == tails


async def test_quiet_symbol_continues_at_its_checkpoint(kafka: Kafka) -> None:
    """No trade of it is in any tail."""
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 7), saved("book:BTCUSDT", 32), marker())
    (left,) = (await read()).values()
    assert (left.trade_id, left.trade_time, left.book_id, left.gaps) == (7, 70, 32, [])


async def test_tail_continues_the_checkpoint(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), saved("book:BTCUSDT", 30), marker())
    kafka.put(topics.TRADES, *(trade(number) for number in (4, 5, 6, 7)))
    kafka.put(topics.BOOKS, book(30), book(31), book(9, "ETHUSDT"))
    left = await read()
    assert (left[SYMBOL].trade_id, left[SYMBOL].trade_time, left[SYMBOL].gaps) == (7, 70, [])
    assert left[SYMBOL].book_id == 31
    assert (left["ETHUSDT"].trade_id, left["ETHUSDT"].book_id) == (None, 9)


async def test_trade_before_its_gap_record_leaves_a_gap(kafka: Kafka) -> None:
    """The collector was killed between the two; 7 was repaired for another gap's sake."""
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), marker())
    kafka.put(topics.TRADES, trade(9), trade(12), trade(7, live=False))
    left = (await read())[SYMBOL]
    assert left.trade_id == 12
    assert left.gaps == [
        SavedGap(first_id=first, last_id=last, missing=[(first, last)])
        for first, last in ((6, 6), (8, 8), (10, 11))
    ]


async def test_symbol_without_a_checkpoint_begins_with_its_first_trade(kafka: Kafka) -> None:
    """It was added, and the collector was killed before the next round."""
    kafka.put(topics.CHECKPOINTS, marker())
    kafka.put(topics.TRADES, trade(3, live=False), trade(5), trade(6), trade(8))
    left = (await read())[SYMBOL]
    assert left.trade_id == 8
    assert [gap.missing for gap in left.gaps] == [[(7, 7)]]


async def test_newest_revision_of_a_gap_counts(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 20), marker())
    kafka.put(
        topics.GAPS,
        record(gap(6, 8, 1)),
        record(gap(6, 8, 3, REPAIRED)),
        record(gap(10, 12, 4, start_time=50, end_time=200)),
        record(gap(14, 15, 5, LOST)),
    )
    open_gap, lost = (await read())[SYMBOL].gaps
    assert open_gap == SavedGap(
        first_id=10,
        last_id=12,
        missing=[(10, 12)],
        cause=int(GapCause.GAP_CAUSE_STALL),
        gap_id=f"{INSTRUMENT}:gap:trade:1-10",
        revision=4,
        detail="revision 4",
        start_time=50,
        end_time=200,
    )
    assert (lost.missing, lost.unrepairable) == ([(14, 15)], True)


async def test_tail_completes_the_gaps_of_a_checkpoint(kafka: Kafka) -> None:
    name = f"{INSTRUMENT}:gap:trade:1-"
    gaps = [
        OpenGap(
            gap_id=f"{name}{first}",
            revision=1,
            first=first,
            last=last,
            missing_first=[missing[0]],
            missing_last=[missing[1]],
            unrepairable=is_lost,
        )
        for first, last, missing, is_lost in (
            (6, 9, (6, 9), False),
            (11, 12, (12, 12), False),
            (14, 15, (14, 15), True),
        )
    ]
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 20, open_gaps=gaps), marker())
    kafka.put(topics.TRADES, trade(7, live=False), trade(12, live=False), trade(21))
    kafka.put(topics.GAPS, record(gap(11, 12, 2, REPAIRED)))
    first, lost = (await read())[SYMBOL].gaps
    assert (first.gap_id, first.missing) == (name + "6", [(6, 6), (8, 9)])
    assert (lost.gap_id, lost.missing, lost.unrepairable) == (name + "14", [(14, 15)], True)


async def test_gap_record_before_its_neighbours_is_continued_once(kafka: Kafka) -> None:
    """The collector was killed before the trades before and after the gap were acknowledged."""
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), marker())
    kafka.put(topics.TRADES, trade(6))
    kafka.put(topics.GAPS, record(gap(9, 12, 4, start_time=80, end_time=130)))
    left = (await read())[SYMBOL]
    assert left.trade_id == 12
    assert [gap.missing for gap in left.gaps] == [[(9, 12)], [(7, 8)]]


async def test_gap_before_trade_ids_began_anew_does_not_count_as_seen(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), marker())
    kafka.put(topics.GAPS, record(gap(9, 12, 4, start_time=40, end_time=130)))
    assert (await read())[SYMBOL].trade_id == 5


async def test_book_gap_includes_updates_that_did_not_reach_the_topic(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("book:BTCUSDT", 30), marker())
    book_gap = gap(35, 40, 1)
    book_gap.channel = "book"
    kafka.put(topics.GAPS, record(book_gap))
    kafka.put(topics.BOOKS, book(31))
    (left,) = (await read()).values()
    assert [(gap.first_id, gap.missing) for gap in left.book_gaps] == [(32, [(32, 40)])]


def unreported(*spans: tuple[int, int]) -> list[OpenGap]:
    """Gaps of a checkpoint whose start ended before it wrote a record of them."""
    return [
        OpenGap(first=first, last=last, missing_first=[first], missing_last=[last])
        for first, last in spans
    ]


async def test_every_gap_without_a_record_is_continued(kafka: Kafka) -> None:
    gaps = unreported((6, 6), (8, 8), (10, 11))
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 20, open_gaps=gaps), marker())
    left = (await read())[SYMBOL]
    assert [(gap.gap_id, gap.missing) for gap in left.gaps] == [
        ("", [(6, 6)]),
        ("", [(8, 8)]),
        ("", [(10, 11)]),
    ]


@pytest.mark.parametrize(("state", "count"), [(OPEN, 1), (REPAIRED, 0)])
async def test_record_of_a_gap_replaces_the_one_without(
    kafka: Kafka, state: GapState.ValueType, count: int
) -> None:
    gaps = unreported((6, 8), (10, 11))
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 20, open_gaps=gaps), marker())
    kafka.put(topics.TRADES, trade(7, live=False))
    kafka.put(topics.GAPS, record(gap(6, 8, 4)), record(gap(6, 8, 5, state)))
    left = (await read())[SYMBOL]
    continued = [(gap.gap_id, gap.missing) for gap in left.gaps]
    assert ("", [(10, 11)]) in continued
    name = f"{INSTRUMENT}:gap:trade:1-6"
    assert [each for each in continued if each[0]] == [(name, [(6, 6), (8, 8)])] * count


async def test_trade_ids_that_began_anew_are_continued(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 1_000_001), marker())
    kafka.put(topics.TRADES, trade(1_000_001), trade(1_000_002))
    for number in (12, 13, 14, 16, 15):
        kafka.put(topics.TRADES, late(number, 20_000_000 + number))
    left = (await read())[SYMBOL]
    assert (left.trade_id, left.trade_time) == (16, 20_000_016)
    assert left.gaps == []


@pytest.mark.parametrize(
    "trades",
    [[(6, 20_000_000)], [(6, 20_000_000), (8, 20_000_001)], [(6, 101), (7, 102), (8, 103)]],
    ids=["one", "two", "not-newer"],
)
async def test_late_trades_are_no_beginning(kafka: Kafka, trades: list[tuple[int, int]]) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), marker())
    kafka.put(topics.TRADES, trade(10), *(late(*each) for each in trades))
    left = (await read())[SYMBOL]
    assert (left.trade_id, left.trade_time) == (10, 100)
    missing = {6, 7, 8, 9} - {number for number, _ in trades}
    spans = [span for gap in left.gaps for span in gap.missing]
    assert {n for first, last in spans for n in range(first, last + 1)} == missing


async def test_records_of_others_are_ignored(kafka: Kafka) -> None:
    other = saved("trade:BTCUSDT", 99)
    other._key = "kraken/trade:BTCUSDT"
    kafka.put(topics.CHECKPOINTS, other, saved("trade:BTCUSDT", 5), marker())
    event = Trade(trade_id=50, event_time=1, publish_time=1, source="kraken", symbol=SYMBOL)
    kafka.put(topics.TRADES, record(event))
    kline_gap = gap(1, 3, 1)
    kline_gap.channel = "kline_1m"
    kafka.put(topics.GAPS, record(kline_gap))
    (left,) = (await read()).values()
    assert (left.trade_id, left.gaps, left.book_gaps) == (5, [], [])


async def test_book_that_was_not_rebuilt_keeps_its_gap(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("book:BTCUSDT", 30), marker())
    book_gap = gap(31, 40, 1)
    book_gap.channel = "book"
    kafka.put(topics.GAPS, record(book_gap))
    (left,) = (await read()).values()
    (saved_gap,) = left.book_gaps
    assert (saved_gap.channel, saved_gap.missing, left.gaps) == ("book", [(31, 40)], [])


async def test_checkpoint_of_an_outdated_writer_is_ignored(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 9, epoch=4), marker(epoch=4))
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5, epoch=3))
    assert (await read())[SYMBOL].trade_id == 9


async def test_of_two_processes_that_start_together_the_later_session_counts(
    kafka: Kafka,
) -> None:
    kafka.put(
        topics.CHECKPOINTS,
        saved("trade:BTCUSDT", 9, session="binance/2-b"),
        saved("trade:BTCUSDT", 5, session="binance/1-a"),
        marker(),
    )
    assert (await read())[SYMBOL].trade_id == 9


async def test_book_gap_that_a_removal_ended_is_not_continued(kafka: Kafka) -> None:
    kafka.put(topics.CHECKPOINTS, saved("book:BTCUSDT", 0, subscribed=False), marker())
    for revision, state in ((1, OPEN), (2, LOST)):
        book_gap = gap(31, 40, revision, state)
        book_gap.channel = "book"
        kafka.put(topics.GAPS, record(book_gap))
    assert (await read())[SYMBOL].book_gaps == []


@pytest.mark.parametrize(("subscribed", "is_added"), [(True, False), (False, False), (False, True)])
async def test_removed_symbol_continues_only_its_gaps(
    kafka: Kafka, subscribed: bool, is_added: bool
) -> None:
    """Also when it was added again, and nothing has come since."""
    gaps = unreported((6, 8))
    trades = saved("trade:BTCUSDT", 20, open_gaps=gaps, subscribed=subscribed)
    book_position = saved("book:BTCUSDT", 30, subscribed=subscribed)
    change = saved("subscription:BTCUSDT", 0, subscribed=is_added)
    kafka.put(topics.CHECKPOINTS, trades, book_position, change, marker())
    left = (await read())[SYMBOL]
    assert (left.trade_id, left.book_id) == (None, None)
    assert [gap.missing for gap in left.gaps] == [[(6, 8)]]
    positions = left.positions(SYMBOL)
    streams = [] if is_added else ["trade:BTCUSDT", "book:BTCUSDT"]
    assert [each.stream for each in positions] == streams
    assert not any(each.subscribed for each in positions)


async def test_records_that_are_no_events_are_skipped(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    broken = (None, b"", b"no event", framing.header(1) + b"\xff\xff")
    kafka.put(topics.CHECKPOINTS, saved("trade:BTCUSDT", 5), marker())
    kafka.put(topics.CHECKPOINTS, *(Record(value, key="binance/x") for value in broken))
    for topic in (topics.TRADES, topics.GAPS, topics.BOOKS):
        kafka.put(topic, *(Record(value) for value in broken))
    assert (await read())[SYMBOL].trade_id == 5
    assert caplog.text.count("topic[0]@17 is skipped") == len(broken) * 4
