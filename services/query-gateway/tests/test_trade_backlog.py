"""Trades between table and memory, read from a log that is a list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError
from market_data import INSTRUMENT, trade

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from meshkit import tails
from meshkit.decoding import UndecodableError
from meshkit.errors import DataLoss, Unavailable
from query_gateway import trade_backlog
from query_gateway.trade_backlog import TradeBacklog

NOW_MS = 1_790_000_000_000


class FakeRecord:
    def __init__(self, event: Trade, key: bytes) -> None:
        self.event, self._key = event, key

    def key(self) -> bytes:
        return self._key

    def value(self) -> Trade:
        return self.event

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW_MS


class FakeDecoder:
    """Decodes trades with an odd id at once, the others only by the registry."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def decode_value(self, topic: str, value: Trade) -> Trade:
        assert topic == topics.TRADES.name
        self.threads.add(threading.get_ident())
        if value.trade_id % 2 == 0:
            raise UndecodableError("UNKNOWN_SCHEMA_ID", "")
        return value

    async def decode(self, batch: list[FakeRecord]) -> list[tuple[FakeRecord, Trade]]:
        return [(record, record.value()) for record in batch]


class FakeConsumer:
    """A log of one or more partitions, by default one of which the group has committed 10.

    Attributes:
        starts: The offset from which on each partition is in memory.
        stored: The committed offset of each partition.
        ends: The end of each partition.
    """

    def __init__(self) -> None:
        self.unassigned = 0
        self.starts, self.stored, self.ends = {0: 20}, {0: 10}, {0: 40}

    def committed(self, places: list[Any], timeout: float) -> list[Any]:
        assert timeout
        return [
            SimpleNamespace(partition=p.partition, offset=self.stored[p.partition], error=None)
            for p in places
        ]

    def unassign(self) -> None:
        self.unassigned += 1

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        assert timeout
        return 0, self.ends[place.partition]


@pytest.fixture
def log() -> list[FakeRecord]:
    """40 trades, of which the table lacks some for ever."""
    records = [
        FakeRecord(trade(offset + 1, (NOW_MS + offset) * 1000), INSTRUMENT.encode())
        for offset in range(40)
    ]
    records[12] = FakeRecord(trade(13, NOW_MS * 1000), b"binance.ETH-USDT")
    records[13].event.price_exponent = -(2**31)
    records[14].event.event_time = (NOW_MS + 300_001) * 1000
    records[15].event.taker_side = 128  # type: ignore[assignment]
    return records


Setup = tuple[TradeBacklog, FakeConsumer, FakeDecoder, list[tuple[int, int, int]]]


@pytest.fixture
def setup(log: list[FakeRecord], monkeypatch: pytest.MonkeyPatch) -> Setup:
    consumer, decoder, reads = FakeConsumer(), FakeDecoder(), list[tuple[int, int, int]]()

    def read_range(_: Any, starts: Any, ends: Any, _seconds: float) -> Iterator[list[FakeRecord]]:
        (((topic, partition), start),) = starts.items()
        end = ends[topic, partition]
        reads.append((partition, start, end))
        yield log[start:end]

    settings: Any = SimpleNamespace(service_name="gateway", spark_ahead_seconds=300.0)
    any_decoder: Any = decoder
    monkeypatch.setattr(trade_backlog, "certificate_files", lambda _: None)
    monkeypatch.setattr(trade_backlog, "tail_consumer", lambda *_: consumer)
    monkeypatch.setattr(trade_backlog, "read_range", read_range)
    return TradeBacklog(settings, any_decoder, lambda: consumer.starts), consumer, decoder, reads


async def test_missing_trades_are_those_that_the_table_will_have(setup: Setup) -> None:
    backlog, consumer, decoder, reads = setup
    missing = await backlog.missing(INSTRUMENT, 30)
    assert [row.trade_id for row in missing.rows] == [11, 12, *range(17, 31)]
    assert missing.complete
    assert reads == [(0, 10, 30)]
    assert consumer.unassigned == 1
    assert threading.get_ident() not in decoder.threads
    # The next page.
    assert await backlog.missing(INSTRUMENT, 30) == missing
    assert reads == [(0, 10, 30)]
    assert (await backlog.missing("binance.ETH-USDT", 30)).rows == []
    assert len((await backlog.missing(INSTRUMENT, 31)).rows) == len(missing.rows) + 1


@pytest.mark.parametrize(("floor", "end"), [(0, 20), (20, 20), (25, 25), (None, 40)])
async def test_missing_trades_end_where_memory_begins(
    setup: Setup, floor: int | None, end: int
) -> None:
    backlog, _, _, reads = setup
    assert (await backlog.missing(INSTRUMENT, floor)).rows[-1].trade_id == end
    assert reads == [(0, 10, end)]


# The partitions that Kafka's default partitioner chooses among four.
PARTITIONS = pytest.mark.parametrize(
    ("name", "partition"),
    [("binance.ADA-USDT", 0), (INSTRUMENT, 1), ("binance.ETH-USDT", 2), ("binance.XRP-USDT", 3)],
)


def split(consumer: FakeConsumer, partition: int, stored: int, others: int) -> None:
    """Set the committed offset of a partition that ends at 35, and that of three others."""
    consumer.starts = dict.fromkeys(range(4), 20)
    consumer.stored = dict.fromkeys(range(4), others) | {partition: stored}
    consumer.ends = dict.fromkeys(range(4), 40) | {partition: 35}


@PARTITIONS
@pytest.mark.parametrize(("floor", "end"), [(30, 30), (None, 35)])
@pytest.mark.parametrize("others", [0, 40])
async def test_missing_trades_are_read_from_the_partition_of_their_key(
    log: list[FakeRecord],
    setup: Setup,
    name: str,
    partition: int,
    floor: int | None,
    end: int,
    others: int,
) -> None:
    """Whatever tick-writer has stored of the other partitions."""
    backlog, consumer, _, reads = setup
    split(consumer, partition, 10, others)
    log[:] = [FakeRecord(trade(n + 1, (NOW_MS + n) * 1000, name), name.encode()) for n in range(40)]
    missing = await backlog.missing(name, floor)
    assert missing.complete
    assert [row.trade_id for row in missing.rows] == list(range(11, end + 1))
    assert reads == [(partition, 10, end)]


@PARTITIONS
@pytest.mark.parametrize("floor", [30, None])
async def test_list_is_proven_although_other_partitions_are_not_stored(
    setup: Setup, name: str, partition: int, floor: int | None
) -> None:
    backlog, consumer, _, reads = setup
    split(consumer, partition, 35, 0)
    assert await backlog.missing(name, floor) == ([], True)
    assert reads == []


class LogConsumer(FakeConsumer):
    """Delivers a log in which some offsets have no record, as a consumer of committed records."""

    def __init__(self, log: list[FakeRecord], markers: set[int]) -> None:
        super().__init__()
        self._log, self._markers = log, markers
        self._coming: list[Any] = []

    def assign(self, places: list[Any]) -> None:
        (place,) = places
        visible = [n for n in range(place.offset, len(self._log)) if n not in self._markers]
        self._coming = [self._message(n, self._log[n]) for n in visible]
        eof = KafkaError(KafkaError._PARTITION_EOF)  # pyright: ignore[reportPrivateUsage]
        self._coming.append(self._message(len(self._log), None, eof))

    def poll(self, _seconds: float) -> Any:
        return self._coming.pop(0)

    def consume(self, _count: int, _seconds: float) -> list[Any]:
        return []

    def _message(self, offset: int, record: FakeRecord | None, error: Any = None) -> Any:
        return SimpleNamespace(
            topic=lambda: topics.TRADES.name,
            partition=lambda: 0,
            offset=lambda: offset,
            error=lambda: error,
            key=lambda: record and record.key(),
            value=lambda: record and record.value(),
            timestamp=lambda: record and record.timestamp(),
        )


@pytest.mark.parametrize(
    ("committed", "floor", "missing"),
    [
        (38, None, []),  # two markers end the log, and tick-writer has read neither
        (39, None, []),
        (40, None, []),
        (36, None, [37, 38]),
        (26, 30, []),  # four markers precede the first record in memory
        (28, 30, []),
        (30, 30, []),
        (31, 30, []),
        (25, 30, [26]),
        (25, 28, [26]),  # memory begins with a marker
    ],
)
async def test_offsets_of_transaction_markers_have_no_trade(
    log: list[FakeRecord],
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    committed: int,
    floor: int | None,
    missing: list[int],
) -> None:
    backlog, _, _, _ = setup
    consumer = LogConsumer(log, {26, 27, 28, 29, 38, 39})
    consumer.stored = {0: committed}
    monkeypatch.setattr(trade_backlog, "tail_consumer", lambda *_: consumer)
    monkeypatch.setattr(trade_backlog, "read_range", tails.read_range)
    found = await backlog.missing(INSTRUMENT, floor)
    assert ([row.trade_id for row in found.rows], found.complete) == (missing, True)


def _lost() -> Exception:
    return DataLoss("TOPIC_LOST", "the topic is gone")


def _slow() -> Exception:
    return Unavailable("TAIL_TIMEOUT", "Kafka is slow")


@pytest.mark.parametrize("error", [_lost, _slow])
async def test_failed_read_is_unavailable_and_leaves_no_assignment(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    backlog, consumer, _, _ = setup

    def read_range(*_: Any) -> Iterator[list[FakeRecord]]:
        yield []
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(trade_backlog, "read_range", read_range)
        with pytest.raises(Unavailable) as exc_info:
            await backlog.missing(INSTRUMENT, 30)
    assert exc_info.value.reason == "KAFKA_UNAVAILABLE"
    assert consumer.unassigned == 1
    assert (await backlog.missing(INSTRUMENT, 30)).rows
