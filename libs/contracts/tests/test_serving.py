"""Keys and write times of the serving schema."""

import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinmesh_contracts import serving

MIGRATIONS = Path(__file__).parents[3] / "deploy" / "cassandra" / "migrations"
STARTS = st.integers(0, 4_000_000_000)
LAYERS = st.integers(0, 1000)
REVISIONS = st.integers(0, 10**9)


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_table_groups_name_tables_of_the_migrations():
    created = {
        table
        for path in MIGRATIONS.glob("*.cql")
        for table in re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", path.read_text())
    }
    for group, tables in serving.TABLE_GROUPS.items():
        assert set(tables) == {table for table in created if table.startswith(f"{group[1:]}_")}


def test_table_groups_are_expanded_in_place():
    expanded = serving.expand_tables(["trades", "@bars", "bars_1s"])
    assert expanded == ("trades", *serving.TABLE_GROUPS["@bars"])
    with pytest.raises(ValueError, match="no table group '@trades'; there are: @bars, @indicators"):
        serving.expand_tables(["@trades"])


@pytest.mark.parametrize(
    ("interval", "start"),
    [
        ("1s", "2026-08-13T14:00:00"),
        ("1m", "2026-08-13T00:00:00"),
        ("5m", "2026-08-10T00:00:00"),
        ("1h", "2026-08-01T00:00:00"),
        ("1d", "2026-01-01T00:00:00"),
    ],
)
def test_bucket_of_interval_starts_at_its_period(interval: str, start: str) -> None:
    assert serving.bucket(interval, seconds("2026-08-13T14:55:07")) == seconds(start)
    assert serving.bucket(interval, seconds(start)) == seconds(start)


@given(STARTS, LAYERS, REVISIONS, LAYERS, REVISIONS)
def test_write_times_order_by_layer_then_revision(
    start: int, layer: int, revision: int, other_layer: int, other_revision: int
) -> None:
    one = serving.write_time(start, layer, revision)
    other = serving.write_time(start, other_layer, other_revision)
    assert (one < other) == ((layer, revision) < (other_layer, other_revision))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_trades_of_an_hour_spread_over_all_shards(time_us: int, trade_id: int) -> None:
    time_us %= 4 * 10**15
    hour, shard = serving.trade_partition(time_us, trade_id)
    assert hour == serving.bucket("1s", time_us // 1_000_000)
    shards = {
        serving.trade_partition(time_us, trade_id + 1000 * step)[1]
        for step in range(serving.TRADE_SHARDS)
    }
    assert shard in shards
    assert shards == set(range(serving.TRADE_SHARDS))


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**15))
def test_divide_half_even_returns_the_nearest(numerator: int, denominator: int) -> None:
    quotient = serving.divide_half_even(numerator, denominator)
    assert quotient == round(Fraction(numerator, denominator))
