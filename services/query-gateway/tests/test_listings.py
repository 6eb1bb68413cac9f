"""Pages over history and the live view: every row once, whatever the page size."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import accumulate
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from market_data import (
    INSTRUMENT,
    MemorySession,
    bar,
    bar_row,
    indicator,
    nothing_missing,
    trade,
)

from meshkit.errors import Unavailable
from query_gateway import bars, intervals, trades
from query_gateway.history import History
from query_gateway.listings import Listings, Page
from query_gateway.live_view import LiveView
from query_gateway.requests import MAX_MS
from query_gateway.trade_backlog import Missing

R = TypeVar("R")
NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Clusters with wide holes between them: months, days and minutes apart.
STARTS = st.lists(
    st.builds(
        lambda months, days, minutes: (
            (NOW_MS - months * 31 * DAY_MS - days * DAY_MS) // 60_000 * 60_000 - minutes * 60_000
        ),
        st.sampled_from([0, 0, 1, 7, 20]),
        st.integers(0, 3),
        st.integers(0, 40),
    ),
    max_size=40,
    unique=True,
)


def made(session: MemorySession) -> tuple[Listings, LiveView]:
    view = LiveView(1000)
    history = History(session, view.newest_ms, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    return Listings(history, view, nothing_missing), view


async def walk(
    page: Callable[[Any], Awaitable[Page[R, Any]]], *, newest_first: bool, size: int
) -> list[R]:
    """All rows, oldest first, page by page."""
    found: list[R] = []
    bound = None
    for _ in range(2000):
        rows, bound = await page(bound)
        assert len(rows) <= size
        found = [*rows, *found] if newest_first else [*found, *rows]
        if bound is None:
            return found
    raise AssertionError("the listing doesn't end")


@settings(deadline=None, max_examples=60)
@example(
    [NOW_MS - 20_000, NOW_MS - DAY_MS - 20_000, NOW_MS - DAY_MS - 80_000],
    [NOW_MS - 2 * DAY_MS - 20_000],
    1,
    True,
    "1m",
)
@given(STARTS, STARTS, st.integers(1, 50), st.booleans(), st.sampled_from(["1m", "3m"]))
async def test_paging_bars_visits_each_window_once(
    stored: list[int], live: list[int], size: int, newest_first: bool, name: str
) -> None:
    session = MemorySession()
    listings, view = made(session)
    for start in stored:
        session.put_bar("1m", bar_row(start, trades=2))
    for start in live:
        view.apply(bar(start, trades=3))
    interval = intervals.parse(name)

    async def page(bound: int | None) -> Page[bars.BarRow, int]:
        low, high = (0, bound or MAX_MS) if newest_first else (bound or 0, MAX_MS)
        return await listings.bars(
            INSTRUMENT, interval, low, high, newest_first=newest_first, limit=size
        )

    found = await walk(page, newest_first=newest_first, size=size)
    expected: dict[int, int] = {}
    for start in {*stored, *live}:
        window = interval.floor(start)
        expected[window] = expected.get(window, 0) + (3 if start in live else 2)
    assert {row.start_ms: row.trade_count for row in found} == expected
    assert [row.start_ms for row in found] == sorted(expected)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 300)), max_size=60, unique=True),
    st.sets(st.integers(0, 59)),
    st.integers(1, 40),
    st.booleans(),
)
async def test_paging_trades_visits_each_trade_once(
    steps: list[tuple[int, int]], live: set[int], size: int, newest_first: bool
) -> None:
    session = MemorySession()
    listings, view = made(session)
    time_us, trade_id, expected = (NOW_MS - 3 * DAY_MS) * 1000, 990, []
    for number, (minutes, gap) in enumerate(steps):
        time_us += minutes % 90 * 60_000_000 + minutes % 2
        trade_id += 1 + gap % 3 * 400
        row = trades.from_event(trade(trade_id, time_us))
        expected.append(row)
        if number in live:
            view.put_trade(INSTRUMENT, row)
        if number not in live or number % 2:
            session.put_trade(row)

    async def page(bound: tuple[int, int] | None) -> Page[trades.TradeRow, tuple[int, int]]:
        low, high = (0, 0), (MAX_MS, 0)
        if bound is not None:
            low, high = (low, bound) if newest_first else (bound, high)
        return await listings.trades(INSTRUMENT, low, high, newest_first=newest_first, limit=size)

    assert await walk(page, newest_first=newest_first, size=size) == expected


@settings(deadline=None, max_examples=40)
@given(STARTS, st.integers(1, 9), st.booleans())
async def test_paging_indicators_visits_each_value_once(
    starts: list[int], size: int, newest_first: bool
) -> None:
    session = MemorySession()
    listings, view = made(session)
    expected: list[tuple[int, str]] = []
    names = ["bollinger/20/lower", "ema/9/", "sma/5/", "sma/20/"]
    for start in sorted(starts):
        session.put_bar("1m", bar_row(start))
        values = {name: Decimal("1.500000000000") for name in names}
        session.indicators.setdefault((INSTRUMENT, "1m"), {})[start] = values, 7
        expected += [(start, name) for name in names]
    if starts:
        view.apply(indicator(max(starts), "2.500000000000", "sma", 5, revision=8))
        view.apply(indicator(max(starts), "9.500000000000", "sma", 20, revision=6))

    async def page(bound: tuple[int, str] | None) -> Page[Any, tuple[int, str]]:
        low, high = (0, ""), (MAX_MS, "")
        if bound is not None:
            low, high = (low, bound) if newest_first else (bound, high)
        return await listings.indicators(
            INSTRUMENT,
            intervals.parse("1m"),
            low,
            high,
            "",
            newest_first=newest_first,
            limit=size,
        )

    found = await walk(page, newest_first=newest_first, size=size)
    assert [(row.start_ms, row.name) for row in found] == expected
    if found:
        newest = {row.name: row.value for row in found if row.start_ms == max(starts)}
        assert newest["sma/5/"] == "2.500000000000"
        assert newest["sma/20/"] == "1.500000000000"


async def test_a_bar_seen_live_is_in_the_listing_before_it_is_stored() -> None:
    session = MemorySession()
    listings, view = made(session)
    session.put_bar("1m", bar_row(0, trades=2, final=False))
    view.apply(bar(0, trades=5))
    view.apply(bar(60_000, trades=1, final=False))
    rows, _ = await listings.bars(
        INSTRUMENT, intervals.parse("1m"), 0, 120_000, newest_first=False, limit=10
    )
    assert [(row.trade_count, row.final) for row in rows] == [(5, True), (1, False)]


async def test_dense_live_trades_are_listed_without_asking_history() -> None:
    session = MemorySession()
    listings, view = made(session)
    for number in range(1, 60):
        view.apply(trade(number, NOW_MS * 1000 + number))
    rows, bound = await listings.trades(
        INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=True, limit=20
    )
    assert [row.trade_id for row in rows] == list(range(40, 60))
    assert bound == rows[0].key
    assert session.reads == 0


@st.composite
def logs(draw: st.DrawFn) -> list[trades.TradeRow]:
    """A log of trades: some ids don't exist, some trades come late."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 9]), min_size=1, max_size=120))
    ids = list(accumulate(steps))
    for late in draw(st.lists(st.integers(0, len(ids) - 1), max_size=6)):
        ids.append(ids.pop(late))
    return [trades.from_event(trade(number, NOW_MS * 1000 + number * 700)) for number in ids]


@settings(deadline=None, max_examples=150)
@given(logs(), st.data(), st.integers(1, 9), st.booleans())
async def test_paging_trades_misses_none_wherever_the_store_is(
    log: list[trades.TradeRow], data: st.DataObject, size: int, newest_first: bool
) -> None:
    position = data.draw(st.integers(1, len(log)), "read by the replica")
    start = data.draw(st.integers(0, position), "first in memory")
    committed = data.draw(st.integers(0, len(log)), "stored for certain")
    visible = data.draw(st.sets(st.integers(0, len(log) - 1)), "visible besides")
    session = MemorySession()
    for offset, row in enumerate(log):
        if offset < committed or offset in visible:
            session.put_trade(row)
    view = LiveView(8)
    for row in sorted(log[:start])[-1:]:
        view.put_trade(INSTRUMENT, row)
    for offset in range(start, position):
        view.put_trade(INSTRUMENT, log[offset], offset)

    async def missing(_instrument: str, floor: int | None) -> Missing:
        end = len(log) if floor is None else max(floor, start)
        return Missing(sorted(log[committed:end]), True)

    history = History(session, lambda _: NOW_MS, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    listings = Listings(history, view, missing)

    async def page(bound: tuple[int, int] | None) -> Page[trades.TradeRow, tuple[int, int]]:
        low, high = (0, 0), (MAX_MS, 0)
        if bound is not None:
            low, high = (low, bound) if newest_first else (bound, high)
        return await listings.trades(INSTRUMENT, low, high, newest_first=newest_first, limit=size)

    listed = await walk(page, newest_first=newest_first, size=size)
    assert set(log[:position]) <= set(listed)
    assert listed == sorted(set(listed))


def numbered(*ids: int) -> list[trades.TradeRow]:
    return [trades.from_event(trade(n, NOW_MS * 1000 + n * 1000)) for n in ids]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_trades_up_to_a_seeded_one_are_read_from_kafka(newest_first: bool) -> None:
    """Another replica is ahead: its newest trade came by way of Redis."""
    session = MemorySession()
    view = LiveView(8)

    async def missing(_instrument: str, floor: int | None) -> Missing:
        assert floor is None
        return Missing(numbered(7, 8, 9), True)

    history = History(session, lambda _: NOW_MS, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    listings = Listings(history, view, missing)
    for row in numbered(*range(1, 7), 8):  # 7 isn't visible yet
        session.put_trade(row)
    view.put_trade(INSTRUMENT, *numbered(9))
    view.apply(trade(6, NOW_MS * 1000 + 6000), 5)
    page = await listings.trades(
        INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=newest_first, limit=50
    )
    assert page == Page(numbered(*range(1, 10)), None)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("seeded", [[], [5]])
async def test_trades_that_become_visible_during_the_call_are_not_listed(
    newest_first: bool, seeded: list[int]
) -> None:
    """No trade of the instrument has come from Kafka yet."""
    session = MemorySession()
    view = LiveView(8)
    for row in numbered(*range(1, 6)):
        session.put_trade(row)
    for row in numbered(*seeded):
        view.put_trade(INSTRUMENT, row)

    async def missing(_instrument: str, floor: int | None) -> Missing:
        assert floor is None
        session.put_trade(*numbered(8))  # 7 is on Kafka, but not visible
        return Missing(numbered(6), True)

    history = History(session, lambda _: NOW_MS, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    listings = Listings(history, view, missing)
    page = await listings.trades(
        INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=newest_first, limit=50
    )
    assert page == Page(numbered(*range(1, 7)), None)


async def test_listing_of_trades_that_cannot_be_proven_is_an_error() -> None:
    session = MemorySession()
    rows = [trades.from_event(trade(n, NOW_MS * 1000 + n * 1000)) for n in range(1, 31)]
    for row in rows[:10]:
        session.put_trade(row)
    view = LiveView(1000)
    for offset in range(20, 30):
        view.put_trade(INSTRUMENT, rows[offset], offset)

    async def missing(_instrument: str, _floor: int | None) -> Missing:
        return Missing(rows[10:12], False)

    history = History(session, lambda _: NOW_MS, lambda: NOW_MS / 1000)  # type: ignore[arg-type]
    listings = Listings(history, view, missing)
    bounds: list[tuple[Any, Any]] = [((0, 0), (MAX_MS, 0)), (rows[10].key, (MAX_MS, 0))]
    for newest_first, (low, high) in ((True, bounds[0]), (False, bounds[1])):
        with pytest.raises(Unavailable) as exc_info:
            await listings.trades(INSTRUMENT, low, high, newest_first=newest_first, limit=50)
        assert exc_info.value.reason == "TRADES_BEHIND"
    # What is older is complete.
    page = await listings.trades(INSTRUMENT, (0, 0), rows[10].key, newest_first=True, limit=50)
    assert page.rows == rows[:10]
    page = await listings.trades(INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=False, limit=50)
    assert (page.rows, page.next) == (rows[:10], rows[10].key)


async def test_a_range_of_years_reads_only_days_that_have_something() -> None:
    session = MemorySession()
    listings, _ = made(session)
    session.put_bar("1m", bar_row((NOW_MS - 400 * DAY_MS) // 60_000 * 60_000))
    rows, bound = await listings.bars(
        INSTRUMENT, intervals.parse("1m"), 0, MAX_MS, newest_first=False, limit=500
    )
    assert len(rows) == 1
    assert bound is None
    assert session.reads < 60


def quiet() -> tuple[MemorySession, Listings, list[int]]:
    """An instrument that traded in one second of each of the last 400 days."""
    session = MemorySession()
    listings, _ = made(session)
    times = [(NOW_MS - day * DAY_MS) // 1000 * 1000 for day in range(400)]
    for at in times:
        session.put_bar("1h", bar_row(at - at % HOUR_MS, "1h"))
    kept = times[:7][::-1]
    for at in kept:
        session.put_bar("1s", bar_row(at, "1s"))
        session.put_trade(trades.from_event(trade(at // 1000, at * 1000)))
    return session, listings, kept


@pytest.mark.parametrize("newest_first", [True, False])
async def test_second_bars_of_quiet_instrument_read_only_kept_hours(newest_first: bool) -> None:
    session, listings, kept = quiet()
    rows, bound = await listings.bars(
        INSTRUMENT, intervals.parse("1s"), 0, MAX_MS, newest_first=newest_first, limit=500
    )
    assert [row.start_ms for row in rows] == kept
    assert bound is None
    assert session.reads <= 16


@pytest.mark.parametrize("newest_first", [True, False])
async def test_trades_of_quiet_instrument_read_only_kept_hours(newest_first: bool) -> None:
    session, listings, kept = quiet()
    rows, bound = await listings.trades(
        INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=newest_first, limit=500
    )
    assert [row.time_ms for row in rows] == kept
    assert bound is None
    assert session.reads <= 48


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("bars_until", [0, 3])
async def test_trades_without_a_bar_are_listed(newest_first: bool, bars_until: int) -> None:
    """Spark is behind, or has dropped all trades of an hour as late."""
    session = MemorySession()
    listings, view = made(session)
    hour = NOW_MS // HOUR_MS * HOUR_MS
    times = [hour - back * HOUR_MS for back in (200, 30, 3, 2, 1)]
    rows = [trades.from_event(trade(at // 1000, at * 1000)) for at in times]
    for row in rows:
        session.put_trade(row)
    if bars_until:
        session.put_bar("1h", bar_row(times[bars_until - 1], "1h"))
        view.put_history(INSTRUMENT, "1h", [bar_row(times[bars_until - 1], "1h")])
    found = await listings.trades(
        INSTRUMENT, (0, 0), (MAX_MS, 0), newest_first=newest_first, limit=500
    )
    assert found == Page(rows, None)
