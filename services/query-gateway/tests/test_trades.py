"""The ring of newest trades."""

from hypothesis import given
from hypothesis import strategies as st
from market_data import trade

from query_gateway import trades
from query_gateway.trades import TradeRing, TradeRow

ROWS = st.integers(1, 60).map(lambda n: trades.from_event(trade(n, 1_000_000 + n // 3 * 1500)))


@given(st.lists(ROWS, max_size=120), st.integers(8, 40))
def test_a_ring_holds_the_newest_trades_once_and_in_order(
    rows: list[TradeRow], capacity: int
) -> None:
    ring = TradeRing(capacity)
    for row in rows:
        ring.add(row)
    kept = ring.between((0, 0), (10**15, 0))
    assert kept == sorted(set(kept))
    newest = sorted(set(rows))[-capacity:]
    if len(set(rows)) <= capacity:
        assert kept == newest
    assert kept[-1:] == newest[-1:]
    assert ring.newest == (newest[-1] if newest else None)


@given(st.lists(ROWS, unique=True), st.lists(ROWS, unique=True))
def test_merging_visits_each_trade_once(stored: list[TradeRow], live: list[TradeRow]) -> None:
    assert trades.merge(stored, live) == sorted({*stored, *live})


def test_a_repaired_trade_takes_its_place() -> None:
    ring = TradeRing(100)
    rows = [trades.from_event(trade(n, 1_000_000 + n)) for n in (1, 2, 5, 3, 4, 5)]
    assert [ring.add(row) for row in rows] == [True, True, True, True, True, False]
    kept = ring.between((0, 0), (10**15, 0))
    assert [row.trade_id for row in kept] == [1, 2, 3, 4, 5]
    assert trades.contiguous(kept)
    assert not trades.contiguous([kept[0], kept[2]])


def test_floor_follows_the_last_trade_that_is_not_held() -> None:
    ring = TradeRing(8)
    rows = [trades.from_event(trade(n, 1_000_000 + n * 1000)) for n in range(1, 31)]
    for offset, row in enumerate(rows[1:9]):
        ring.add(row, 100 + offset)
    assert ring.floor == 0
    for offset, row in enumerate(rows[9:11]):
        ring.add(row, 108 + offset)
    assert ring.floor == 102
    # A repaired trade that is older than all that is held.
    assert not ring.add(rows[0], 200)
    assert ring.floor == 201
