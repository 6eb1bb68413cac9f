"""Spans of a micro-batch: none without a traced record, one connected trace with them."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coinmesh_spark.traces import COLUMN, NAME, MicroBatch
from meshkit import tracing
from meshkit.settings import TelemetrySettings
from meshkit.tracing import Tracing


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def made(exporter: InMemorySpanExporter) -> Tracing:
    return Tracing(TelemetrySettings(), processor=SimpleSpanProcessor(exporter))


def parent(number: int, flags: str = "01") -> bytes:
    return f"00-{number:032x}-{number:016x}-{flags}".encode()


def records(*parents: bytes | None) -> list[pa.RecordBatch]:
    """One record batch, all records of one instrument."""
    columns = {
        "key": pa.array([b"binance.BTC-USDT"] * len(parents), pa.binary()),
        "timestamp": pa.array([datetime.now(UTC)] * len(parents)),
        COLUMN: pa.array(parents, pa.binary()),
    }
    return [pa.RecordBatch.from_pydict(columns)]


class Content:
    start = 60

    def revision(self, final: bool) -> int:
        return 7


class Changed:
    """As much of a changed bar as is looked at."""

    interval, final, bar = "1m", False, Content()

    def __init__(self, instrument: str) -> None:
        self.instrument = instrument


def changed(instrument: str) -> Any:
    return Changed(instrument)


@pytest.mark.parametrize("parents", [(None, None), (parent(1, "00"),), (b"noise", b"\xff")])
def test_untraced_records_make_no_spans(
    made: Tracing, exporter: InMemorySpanExporter, parents: tuple[bytes | None, ...]
) -> None:
    batch = MicroBatch(made, records(*parents), 1, {})
    with batch.asking("cassandra", "write bars"):
        assert batch.headers(changed("binance.BTC-USDT")) is None
    batch.sent()
    batch.end()
    assert exporter.get_finished_spans() == ()


def test_the_first_traced_record_is_the_parent_and_all_are_linked(
    made: Tracing, exporter: InMemorySpanExporter
) -> None:
    batch = MicroBatch(made, records(None, parent(1), parent(2)), 5, {"coinmesh.batch": 3})
    with batch.asking("cassandra", "write bars"):
        pass
    headers = batch.headers(changed("binance.BTC-USDT"))
    assert batch.headers(changed("binance.ETH-USDT")) is None
    batch.sent()
    batch.end()
    written, sent, main, twin = exporter.get_finished_spans()
    assert (main.name, main.start_time, main.parent.span_id) == (NAME, 5, 1)
    assert [link.context.trace_id for link in main.links] == [1, 2]
    assert {one.context.trace_id for one in (written, sent, main)} == {1}
    assert {one.parent.span_id for one in (written, sent)} == {main.context.span_id}
    assert written.attributes[tracing.PEER] == "cassandra"
    assert sent.attributes[tracing.EVENT_ID] == "binance.BTC-USDT:bar:60:60:0:7"
    carried = f"00-{1:032x}-{sent.context.span_id:016x}-01"
    assert headers == [("traceparent", carried.encode())]
    assert (twin.name, twin.context.trace_id, twin.parent.span_id) == (NAME, 2, 2)
    assert [link.context.span_id for link in twin.links] == [main.context.span_id]
    assert (twin.start_time, twin.end_time) == (main.start_time, main.end_time)
