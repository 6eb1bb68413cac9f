"""Traces through a micro-batch: from traced records to the bars that they changed.

A partition's part of a micro-batch is one span, child of its first traced record and linked to all,
so that one trace continues to the bars. The trace of each other record has a span of the same
duration with a link to it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from coinmesh_archive import arrow_types as arrow
from coinmesh_contracts import topics
from coinmesh_spark.fold import ChangedBar
from coinmesh_spark.sinks import rows
from meshkit import tracing
from meshkit.tracing import Headers, Tracing

COLUMN: Final = "traceparent"
EXPRESSION: Final = f"get(filter(headers, h -> h.key = '{tracing.TRACEPARENT}'), 0).value"
"""The column that Spark extracts from a record's headers: null for nearly all records."""
MOST: Final = 128
NAME: Final = "micro-batch bars"


class MicroBatch:
    """The spans of one partition's part of a micro-batch; none if no record is traced."""

    def __init__(
        self,
        made: Tracing,
        records: Sequence[arrow.RecordBatch],
        begun_ns: int,
        attributes: dict[str, AttributeValue],
    ) -> None:
        self._made, self._begun, self._attributes = made, begun_ns, attributes
        self._sent: list[Span] = []
        found = _traced(records) if made.is_on else []
        self._instruments = {instrument for instrument, _ in found}
        self._contexts = [context for _, context in found]
        self._span: Span | None = None
        if self._contexts:
            links = [Link(_context(context)) for context in self._contexts]
            self._span = self._start(self._contexts[0], links)

    @contextmanager
    def asking(self, peer: str, operation: str) -> Generator[None]:
        """Create a span around a request to a component."""
        if self._span is None:
            yield
            return
        with (
            trace.use_span(self._span, end_on_exit=False),
            self._made.asking(peer, operation),
        ):
            yield

    def headers(self, changed: ChangedBar) -> Headers | None:
        """Return the headers of a bar of an instrument with traced records; None for any other."""
        if self._span is None or changed.instrument not in self._instruments:
            return None
        attributes: dict[str, AttributeValue] = {
            tracing.TOPIC: topics.BARS.name,
            tracing.INSTRUMENT: changed.instrument,
            tracing.EVENT_ID: rows.bar_id(changed),
        }
        parent = trace.set_span_in_context(self._span)
        span = self._made.tracer.start_span(
            f"send {topics.BARS.name}", parent, SpanKind.PRODUCER, attributes
        )
        self._sent.append(span)
        return [(tracing.TRACEPARENT, tracing.traceparent(span.get_span_context()).encode())]

    def sent(self) -> None:
        """End the bars' spans once Kafka has all bars."""
        for span in self._sent:
            span.end()

    def end(self) -> None:
        """End the batch's spans."""
        if self._span is None:
            return
        now = time.time_ns()
        self._span.end(now)
        link = Link(self._span.get_span_context())
        for context in self._contexts[1:]:
            self._start(context, [link]).end(now)

    def _start(self, parent: Context, links: Sequence[Link]) -> Span:
        return self._made.tracer.start_span(
            NAME, parent, SpanKind.CONSUMER, self._attributes, links, self._begun
        )


def _traced(records: Sequence[arrow.RecordBatch]) -> list[tuple[str, Context]]:
    """Return instrument and context of the first traced records."""
    found: list[tuple[str, Context]] = []
    for batch in records:
        column = batch.column(COLUMN)
        if column.null_count == len(column):
            continue
        for row, value in enumerate(column):
            context = tracing.extract([(tracing.TRACEPARENT, value.as_py())])
            if len(found) < MOST and _context(context).trace_flags.sampled:
                key = batch.column("key")[row].as_py() or b""
                found.append((key.decode("utf-8", "replace"), context))
    return found


def _context(context: Context) -> trace.SpanContext:
    return trace.get_current_span(context).get_span_context()
