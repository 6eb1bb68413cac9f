"""The order book against a model."""

from hypothesis import given
from hypothesis import strategies as st
from market_data import delta, snapshot

from query_gateway.book import OrderBook

SIDES = st.dictionaries(st.integers(1, 60), st.integers(0, 9), max_size=6)
LEVELS = st.dictionaries(st.integers(1, 60), st.integers(1, 9), min_size=1)


def shown(book: OrderBook, depth: int = 100) -> tuple[list[str], list[str]]:
    view = book.view(depth)
    return [f"{p} {s}" for p, s in view.bids], [f"{p} {s}" for p, s in view.asks]


def applied(side: dict[int, int], change: dict[int, int]) -> dict[int, int]:
    return {price: size for price, size in {**side, **change}.items() if size}


def text(side: dict[int, int], *, best_first_is_high: bool) -> list[str]:
    ordered = sorted(side.items(), reverse=best_first_is_high)
    return [f"{price / 100:.2f} {size / 1000:.3f}" for price, size in ordered]


@given(LEVELS, LEVELS, st.lists(st.tuples(SIDES, SIDES, st.integers(1, 3)), max_size=12))
def test_a_book_is_its_snapshot_with_the_deltas_applied(
    bids: dict[int, int],
    asks: dict[int, int],
    changes: list[tuple[dict[int, int], dict[int, int], int]],
) -> None:
    book = OrderBook()
    # What came before the snapshot says nothing and does no harm.
    assert book.apply(delta(1, 9, {7: 7}, {}))
    assert not book.ready
    assert book.apply(snapshot(10, bids, asks))
    last = 10
    for bid_change, ask_change, width in changes:
        update = delta(last + 1, last + width, bid_change, ask_change)
        last += width
        assert book.apply(update)
        assert book.apply(update)  # a replayed record
        bids, asks = applied(bids, bid_change), applied(asks, ask_change)
    assert book.ready
    assert book.last_update_id == last
    assert shown(book) == (
        text(bids, best_first_is_high=True),
        text(asks, best_first_is_high=False),
    )


def test_a_hole_makes_the_book_not_ready_until_the_next_snapshot() -> None:
    book = OrderBook()
    book.apply(snapshot(10, {100: 1}, {101: 1}))
    assert not book.apply(delta(12, 13, {99: 5}, {}))
    assert not book.ready
    book.apply(delta(14, 14, {98: 5}, {}))
    assert not book.ready
    book.apply(snapshot(20, {90: 2}, {91: 3}))
    assert book.ready
    assert shown(book) == (["0.90 0.002"], ["0.91 0.003"])


def test_while_the_collector_rebuilds_the_book_the_old_levels_stay_marked_stale() -> None:
    book = OrderBook()
    book.apply(snapshot(10, {100: 1}, {101: 1}))
    book.apply(snapshot(10, {100: 1}, {101: 1}, stale=True))
    assert book.ready
    assert book.view(5).stale
    assert book.apply(delta(50, 51, {99: 5}, {}))
    assert book.ready
    assert book.view(5).stale
    assert shown(book) == (["1.00 0.001"], ["1.01 0.001"])
    book.apply(snapshot(60, {97: 1}, {98: 1}))
    assert not book.view(5).stale


def test_a_delta_that_overlaps_the_snapshot_is_applied() -> None:
    book = OrderBook()
    book.apply(snapshot(10, {100: 1}, {101: 1}))
    assert book.apply(delta(8, 12, {99: 5}, {}))
    assert shown(book)[0] == ["1.00 0.001", "0.99 0.005"]


def test_levels_that_are_not_certainly_known_are_not_shown() -> None:
    book = OrderBook()
    book.apply(snapshot(1, {100: 1, 90: 1}, {110: 1, 120: 1}, trusted_low_units=90))
    book.apply(delta(2, 2, {80: 5}, {300: 5}))
    bids, asks = shown(book)
    assert bids == ["1.00 0.001", "0.90 0.001"]
    assert asks[-1] == "3.00 0.005"


def test_beyond_a_full_snapshots_last_level_nothing_is_known() -> None:
    book = OrderBook()
    book.apply(snapshot(1, {1000 + i: 1 for i in range(1000)}, {5000: 1}))
    book.apply(delta(2, 2, {500: 5}, {}))
    assert len(book.view(2000).bids) == 1000


def test_depth_cuts_each_side_at_its_best() -> None:
    book = OrderBook()
    book.apply(snapshot(1, {1: 1, 2: 1, 3: 1}, {4: 1, 5: 1, 6: 1}))
    assert shown(book, 2) == (["0.03 0.001", "0.02 0.001"], ["0.04 0.001", "0.05 0.001"])


def test_a_value_at_another_exponent_is_the_same_value() -> None:
    book = OrderBook()
    book.apply(snapshot(1, {100: 1}, {200: 1}, trusted_low_units=50))
    coarse = delta(2, 2, {9: 3}, {})
    coarse.price_exponent, coarse.size_exponent = -1, 0
    book.apply(coarse)
    assert shown(book)[0] == ["1.00 0.001", "0.90 3.000"]
    fine = delta(3, 3, {10_000: 0, 8_005: 7}, {})
    fine.price_exponent, fine.size_exponent = -4, -4
    book.apply(fine)
    assert shown(book) == (["0.9000 3.0000", "0.8005 0.0007"], ["2.0000 0.0010"])
