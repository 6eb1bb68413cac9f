"""Which records the archive puts into the table of recent trades: those that bars are made of."""

from datetime import UTC, datetime

import harness as h
import pyarrow as pa
import pytest

from coinmesh_contracts import cql, framing
from coinmesh_spark.archive_task import trade_rows
from coinmesh_spark.decode import Decoder

APPENDED = datetime(2026, 1, 1, tzinfo=UTC)
TIME = int(APPENDED.timestamp()) * 1_000_000
HEADER = framing.header(7)


def good(trade_id, time=TIME, **fields):
    return h.trade(HEADER, "sim.A-USDT", trade_id, time, 100, 5, True, **fields)


def stored(records):
    """Ids of the rows that records become."""
    table = pa.table(
        {
            "key": pa.array([key for key, _ in records], pa.binary()),
            "value": pa.array([value for _, value in records], pa.binary()),
            "timestamp": pa.array([APPENDED] * len(records), pa.timestamp("us", "UTC")),
        }
    )
    decoder = Decoder(set(), lambda schema_id: schema_id == 7)
    ids = {cql.bigint(number): number for number in range(1, 10)}
    return [ids[row.values[1]] for row in trade_rows(table, decoder)]


@pytest.mark.parametrize(
    "poison",
    [
        good(2, taker_side=128),
        good(2, taker_side=-(2**31)),
        good(2, price_exponent=-(2**31)),
        good(2, size_exponent=2**31 - 1),
        good(2, price_units=0),
        good(2, time=TIME + 301_000_000),
        (b"sim.B-USDT", good(2)[1]),
        (b"sim.A-USDT", framing.header(8) + good(2)[1][6:]),
        (b"sim.A-USDT", good(2)[1][:-1]),
        (b"sim.A-USDT", None),
    ],
)
def test_poison_record_is_not_stored_and_harms_no_other(poison):
    assert stored([good(1), poison, good(3)]) == [1, 3]
