"""Trades between table and memory, read from a log that is a list."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from market_data import INSTRUMENT, trade

from coinmesh_contracts import topics
from coinmesh_contracts.events.v1.trade_pb2 import Trade
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
        return [(record, record.event) for record in batch]


class FakeConsumer:
    """The log of one partition, of which the group has committed 10."""

    def __init__(self) -> None:
        self.unassigned = 0

    def committed(self, places: list[Any], timeout: float) -> list[Any]:
        assert timeout
        return [SimpleNamespace(partition=p.partition, offset=10, error=None) for p in places]

    def unassign(self) -> None:
        self.unassigned += 1

    def get_watermark_offsets(self, _place: Any, timeout: float) -> tuple[int, int]:
        assert timeout
        return 0, 40


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


Setup = tuple[TradeBacklog, FakeConsumer, FakeDecoder, list[tuple[int, int]]]


@pytest.fixture
def setup(log: list[FakeRecord], monkeypatch: pytest.MonkeyPatch) -> Setup:
    consumer, decoder, reads = FakeConsumer(), FakeDecoder(), list[tuple[int, int]]()

    def read_range(_: Any, starts: Any, ends: Any, _seconds: float) -> Iterator[list[FakeRecord]]:
        ((start,), (end,)) = starts.values(), ends.values()
        reads.append((start, end))
        yield log[start:end]

    settings: Any = SimpleNamespace(service_name="gateway", spark_ahead_seconds=300.0)
    any_decoder: Any = decoder
    monkeypatch.setattr(trade_backlog, "certificate_files", lambda _: None)
    monkeypatch.setattr(trade_backlog, "tail_consumer", lambda *_: consumer)
    monkeypatch.setattr(trade_backlog, "read_range", read_range)
    return TradeBacklog(settings, any_decoder, lambda: {0: 20}), consumer, decoder, reads


async def test_missing_trades_are_those_that_the_table_will_have(setup: Setup) -> None:
    backlog, consumer, decoder, reads = setup
    missing = await backlog.missing(INSTRUMENT, 30)
    assert [row.trade_id for row in missing.rows] == [11, 12, *range(17, 31)]
    assert missing.complete
    assert reads == [(10, 30)]
    assert consumer.unassigned == 1
    assert threading.get_ident() not in decoder.threads
    # The next page.
    assert await backlog.missing(INSTRUMENT, 30) == missing
    assert reads == [(10, 30)]
    assert (await backlog.missing("binance.ETH-USDT", 30)).rows == []
    assert len((await backlog.missing(INSTRUMENT, 31)).rows) == len(missing.rows) + 1


@pytest.mark.parametrize(("floor", "end"), [(0, 20), (20, 20), (25, 25), (None, 40)])
async def test_missing_trades_end_where_memory_begins(
    setup: Setup, floor: int | None, end: int
) -> None:
    backlog, _, _, reads = setup
    assert (await backlog.missing(INSTRUMENT, floor)).rows[-1].trade_id == end
    assert reads == [(10, end)]


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
