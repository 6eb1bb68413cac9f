"""Where the archive cuts the records that a task gets."""

from itertools import pairwise

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from coinmesh_spark.archive_task import _cut, _runs

PLACES = [("market.quotes.v1", 0), ("market.quotes.v1", 1), ("market.trades.v1", 1)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=6), st.integers(1, 4))
def test_each_piece_is_of_one_partition_and_nothing_is_lost(parts, size):
    places = [PLACES[number] for number, count in parts for _ in range(count)]
    table = pa.table(
        {
            "topic": pa.array([topic for topic, _ in places], pa.string()),
            "partition": pa.array([number for _, number in places], pa.int32()),
            "offset": pa.array(range(len(places)), pa.int64()),
        }
    )
    found = list(_runs(iter(table.to_batches(max_chunksize=size))))
    assert [o for _, piece in found for o in piece["offset"].to_pylist()] == list(
        range(len(places))
    )
    for place, piece in found:
        assert 0 < len(piece) <= size
        assert set(piece["topic"].to_pylist()) == {place[0]}
        assert set(piece["partition"].to_pylist()) == {place[1]}
    cuts = sum(a != b for a, b in pairwise(places)) + len(table.to_batches(max_chunksize=size))
    assert len(found) <= cuts


def cut(sizes, max_bytes, chunk):
    """Sizes of the pieces' records, of records with a value of each size, read in chunks."""
    table = pa.table(
        {
            "key": pa.array([None] * len(sizes), pa.binary()),
            "value": pa.array([b"v" * size for size in sizes], pa.binary()),
        }
    )
    batches = iter(table.to_batches(max_chunksize=chunk))
    return [
        [len(value) for value in piece["value"].to_pylist()] for piece in _cut(batches, max_bytes)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 60), st.integers(1, 7))
def test_cut_keeps_each_record_once_below_the_limit(sizes, max_bytes, chunk):
    pieces = cut(sizes, max_bytes, chunk)
    assert [size for piece in pieces for size in piece] == sizes
    for piece in pieces:
        assert piece
        assert sum(piece) <= max_bytes or sum(size > 0 for size in piece) == 1
    for piece, following in pairwise(pieces):
        assert sum(piece) + following[0] > max_bytes


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 60), st.integers(1, 7))
def test_cut_does_not_depend_on_how_records_were_read(sizes, max_bytes, chunk):
    assert cut(sizes, max_bytes, chunk) == cut(sizes, max_bytes, len(sizes) + 1)
