"""Traces from Jaeger's HTTP API, and the calls between services derived from them."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from meshkit import tracing
from meshkit.errors import NotFound, Unavailable

LOOKBACK_SECONDS = 86_400
LINKED_TRACES = 4


@dataclass
class Span:
    """One span; times in microseconds since the Unix epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    operation: str
    start: int
    duration: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]] = field(default_factory=list)
    """Trace and span ids in other traces."""

    @property
    def peer(self) -> str:
        """Return the component on its other side that creates no spans itself; "" if none."""
        return str(self.attributes.get(tracing.PEER, ""))

    @classmethod
    def parse(cls, found: dict[str, Any], processes: dict[str, Any]) -> Span:
        """Return a span from the API's JSON."""
        trace_id, parent, links = found["traceID"].zfill(32), "", []
        for reference in found.get("references") or ():
            other = reference["traceID"].zfill(32)
            if reference["refType"] == "CHILD_OF" and not parent:
                parent = reference["spanID"]
            elif other != trace_id:
                links.append((other, reference["spanID"]))
        return cls(
            trace_id,
            found["spanID"],
            parent,
            processes[found["processID"]]["serviceName"],
            found["operationName"],
            found["startTime"],
            found["duration"],
            {tag["key"]: tag["value"] for tag in found.get("tags") or ()},
            links,
        )


class Jaeger:
    """A client of Jaeger's query API."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._client = httpx.Client(base_url=url, verify=tls or True, timeout=10)

    def services(self) -> list[str]:
        """Return the services that have sent spans."""
        return sorted(self._get("/api/services").get("data") or ())

    def trace(self, trace_id: str) -> list[Span]:
        """Return a trace's spans; empty when Jaeger doesn't have it."""
        return _spans(self._get(f"/api/traces/{trace_id}"))

    def search(
        self, service: str, limit: int = 20, tags: Mapping[str, str] | None = None
    ) -> list[Span]:
        """Return the spans of a service's newest traces that have all `tags`."""
        now = time.time_ns() // 1000
        query = {
            "service": service,
            "limit": str(limit),
            "end": str(now),
            "start": str(now - LOOKBACK_SECONDS * 1_000_000),
        }
        if tags:
            query["tags"] = json.dumps(dict(tags))
        return _spans(self._get("/api/traces", query))

    def of_event(self, event_id: str) -> str:
        """Return the id of the oldest trace that contains an event.

        Raises:
            NotFound: There is none.
        """
        found = [
            span
            for service in self.services()
            for span in self.search(service, tags={tracing.EVENT_ID: event_id})
        ]
        if not found:
            raise NotFound(
                "NOT_TRACED",
                f"no trace tells of {event_id!r}: one frame in so many is traced "
                "(COINMESH_TRACE_SAMPLING_RATIO, 0.01 by default), and Jaeger keeps the newest "
                "traces only",
            )
        return min(found, key=lambda span: span.start).trace_id

    def last_of_an_event(self) -> str:
        """Return the id of the newest complete trace of an event.

        A complete trace has all its parents and reaches as many services as any of the newest: a
        trace that is incomplete or was truncated reaches fewer.

        Raises:
            NotFound: No event has been traced yet.
        """
        traces: dict[str, dict[str, Span]] = {}
        for service in self.services():
            for span in self.search(service):
                traces.setdefault(span.trace_id, {})[span.span_id] = span
        complete = {
            trace_id: spans
            for trace_id, spans in traces.items()
            if any(tracing.EVENT_ID in span.attributes for span in spans.values())
            and all(not span.parent_id or span.parent_id in spans for span in spans.values())
        }
        if not complete:
            raise NotFound(
                "NOT_TRACED",
                "no event has been traced yet: one frame in so many is "
                "(COINMESH_TRACE_SAMPLING_RATIO, 0.01 by default); try again in some seconds",
            )

        def rank(trace_id: str) -> tuple[int, int]:
            spans = complete[trace_id].values()
            return len({span.service for span in spans}), min(span.start for span in spans)

        return max(complete, key=rank)

    def whole(self, trace_id: str) -> list[Span]:
        """Return a trace with the linked traces of the same work, as one tree.

        Raises:
            NotFound: Jaeger doesn't have it.
        """
        spans = self.trace(trace_id)
        if not spans:
            raise NotFound("UNKNOWN_TRACE", f"Jaeger at {self._url} has no trace {trace_id}")
        joined = list(spans)
        for span in [span for span in spans if span.links][:LINKED_TRACES]:
            other_id, twin_id = span.links[0]
            other = self.trace(other_id)
            twin = next((one for one in other if one.span_id == twin_id), None)
            if twin is not None and twin.operation == span.operation:
                joined += _grafted(other, twin, span)
        return joined

    def _get(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = self._client.get(path, params=query)
        except httpx.HTTPError as error:
            raise Unavailable(
                "JAEGER_UNREACHABLE",
                f"Jaeger at {self._url} doesn't answer ({error}); it comes after the mesh is up: "
                "see `coinmesh status` and `coinmesh logs jaeger`",
            ) from error
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return {}
        return answer.raise_for_status().json()


def edges(spans: Iterable[Span]) -> set[tuple[str, str]]:
    """Return pairs of calling and called service, including components without own spans."""
    known = list(spans)
    services = {(span.trace_id, span.span_id): span.service for span in known}
    found: set[tuple[str, str]] = set()
    for span in known:
        parent = services.get((span.trace_id, span.parent_id))
        if parent is not None and parent != span.service:
            found.add((parent, span.service))
        if span.peer:
            kind = span.attributes.get("span.kind")
            pair = (span.peer, span.service) if kind == "consumer" else (span.service, span.peer)
            found.add(pair)
    return found


def _spans(answer: dict[str, Any]) -> list[Span]:
    return [
        Span.parse(span, trace["processes"])
        for trace in answer.get("data") or ()
        for span in trace["spans"]
    ]


def _grafted(spans: list[Span], twin: Span, onto: Span) -> list[Span]:
    """Return the spans below `twin`, moved below `onto`."""
    wanted, found = {twin.span_id}, []
    for span in sorted(spans, key=lambda one: one.start):
        if span.parent_id in wanted:
            wanted.add(span.span_id)
            if span.parent_id == twin.span_id:
                span.parent_id = onto.span_id
            found.append(span)
    return found
