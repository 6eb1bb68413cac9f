"""Traces of frames: which are chosen, and what their records carry."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from coinmesh_contracts import framing
from coinmesh_contracts.events.v1.trade_pb2 import Trade
from coinmesh_sources.inputs import Record
from coinmesh_sources.traces import FrameTraces
from meshkit import tracing
from meshkit.settings import TelemetrySettings
from meshkit.tracing import Tracing

TRADE = Trade(event_id="binance.BTC-USDT:trade:7", instrument="binance.BTC-USDT")
RECORD: Record = (
    "market.trades.v1",
    b"binance.BTC-USDT",
    framing.header(1) + TRADE.SerializeToString(),
)


class Acknowledged:
    """What librdkafka tells of a record that was taken."""

    def partition(self) -> int:
        return 2

    def offset(self) -> int:
        return 41


class Refused:
    def str(self) -> str:
        return "too large"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traces(exporter: InMemorySpanExporter, ratio: float) -> FrameTraces:
    settings = TelemetrySettings(trace_sampling_ratio=ratio, service_name="collector-binance")
    return FrameTraces("binance", Tracing(settings, processor=SimpleSpanProcessor(exporter)))


def test_a_record_carries_its_own_span_which_ends_at_the_acknowledgement(
    exporter: InMemorySpanExporter,
) -> None:
    (traced,) = traces(exporter, 1).choose([RECORD], 1_000, "session/1")
    topic, key, value, headers, delivered = traced  # type: ignore[misc]
    assert (topic, key, value) == RECORD
    (received,) = exporter.get_finished_spans()
    assert received.start_time == 1_000
    assert received.attributes["coinmesh.connection"] == "session/1"
    delivered(None, Acknowledged())
    sent = exporter.get_finished_spans()[1]
    assert sent.parent.span_id == received.context.span_id
    assert headers == [("traceparent", tracing.traceparent(sent.context).encode())]
    assert dict(sent.attributes) == {
        tracing.TOPIC: "market.trades.v1",
        tracing.EVENT_ID: TRADE.event_id,
        tracing.INSTRUMENT: TRADE.instrument,
        tracing.PARTITION: "2",
        tracing.OFFSET: 41,
    }


def test_a_refused_record_has_an_error_span(exporter: InMemorySpanExporter) -> None:
    (traced,) = traces(exporter, 1).choose([RECORD], 1_000, "session/1")
    traced[4](Refused(), None)  # type: ignore[misc]
    assert exporter.get_finished_spans()[1].status.status_code is StatusCode.ERROR


def test_a_frame_without_records_passes_its_turn_on(exporter: InMemorySpanExporter) -> None:
    made = traces(exporter, 0.5)
    made.wait = -1
    assert made.choose([], 1_000, "session/1") == []
    assert made.wait == -1
    assert exporter.get_finished_spans() == ()
    made.choose([RECORD], 1_000, "session/1")
    assert made.wait >= 0


def test_nothing_is_chosen_where_traces_go_nowhere() -> None:
    made = FrameTraces("binance", Tracing(TelemetrySettings(trace_sampling_ratio=1)))
    made.wait -= 1
    assert made.wait > 10**9
