"""Metrics: Prometheus's client library, one registry per process, and RED metrics of each RPC.

Names begin with `coinmesh_`; units are in the name (`_seconds`, `_bytes`, `_total`). `serve`
creates a service's `Metrics`; its resources register their metrics with it.
"""

from __future__ import annotations

import asyncio
import io
import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, TypeVar, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshkit.calls import Call, Layer
from meshkit.settings import Address, MeshSettings
from meshkit.tls import (
    CertificateFiles,
    peer_service,
    require_plaintext_allowed,
    server_ssl_context,
)

# From 1 ms to 10 s: contains the targets for a chart view, an alert and a slow history query.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOOP_PROBE_SECONDS = 0.5

# Services that may read metrics under TLS.
SCRAPERS = frozenset({"prometheus", "deploy", "cli"})
_PEER = "coinmesh.peer"

_log = logging.getLogger(__name__)
Read = Callable[[], Mapping[tuple[str, ...], float]]
M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one process; a repeated name returns the same metric."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._known: dict[str, Counter | Gauge | Histogram] = {}
        self._families: dict[str, _ReadFamily] = {}
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Return the counter `coinmesh_<name>_total`."""
        return self._once(
            Counter,
            name,
            lambda: Counter(
                name, documentation, labels, namespace="coinmesh", registry=self.registry
            ),
        )

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """Return the gauge `coinmesh_<name>`."""
        return self._once(
            Gauge,
            name,
            lambda: Gauge(
                name, documentation, labels, namespace="coinmesh", registry=self.registry
            ),
        )

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = LATENCY_BUCKETS,
    ) -> Histogram:
        """Return the histogram `coinmesh_<name>` with upper bounds `buckets`."""
        return self._once(
            Histogram, name, lambda: histogram(name, documentation, labels, buckets, self.registry)
        )

    def read_counter(
        self, name: str, documentation: str, labels: Sequence[str], read: Read
    ) -> None:
        """Register a counter `coinmesh_<name>_total` whose values are read at scrape time.

        For hot paths that count in plain integers. `read` returns the values by label values; the
        values of several readers of one name are combined.
        """
        self._add_reader(CounterMetricFamily, name, documentation, labels, read)

    def read_gauge(self, name: str, documentation: str, labels: Sequence[str], read: Read) -> None:
        """Register a gauge `coinmesh_<name>` whose values are read at scrape time."""
        self._add_reader(GaugeMetricFamily, name, documentation, labels, read)

    def add(self, collector: Collector) -> None:
        """Expose a metric that was created without a registry."""
        self.registry.register(collector)

    def value(self, name: str, **labels: str) -> float:
        """Return the current value of a sample, 0 if there is none; `name` is the exposed name."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def _add_reader(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        documentation: str,
        labels: Sequence[str],
        read: Read,
    ) -> None:
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _ReadFamily(kind, name, documentation, labels)
            self.registry.register(family)
        family.readers.append(read)

    def _once(self, kind: type[M], name: str, make: Callable[[], M]) -> M:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = make()
        if not isinstance(known, kind):
            raise TypeError(f"metric {name} is a {type(known).__name__}, not a {kind.__name__}")
        return known


class _ReadFamily(Collector):
    """One metric with the values of several readers."""

    def __init__(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        documentation: str,
        labels: Sequence[str],
    ) -> None:
        self._make = partial(kind, f"coinmesh_{name}", documentation, labels=labels)
        self.readers: list[Read] = []

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        family = self._make()
        for read in self.readers:
            for labels, value in read().items():
                family.add_metric(labels, value)
        yield family


def histogram(
    name: str,
    documentation: str,
    labels: Sequence[str] = (),
    buckets: Sequence[float] = LATENCY_BUCKETS,
    registry: CollectorRegistry | None = None,
) -> Histogram:
    """Return the histogram `coinmesh_<name>`, for `Metrics.add` unless it has a registry."""
    return Histogram(
        name, documentation, labels, namespace="coinmesh", registry=registry, buckets=buckets
    )


class MetricsServer:
    """The HTTP endpoint that Prometheus scrapes; it has its own thread."""

    def __init__(self, server: WSGIServer, host: str) -> None:
        self._server = server
        self.address = Address(host, server.server_port)

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()


def start(
    listen: Address,
    metrics: Metrics,
    settings: MeshSettings,
    files: CertificateFiles | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> MetricsServer:
    """Serve `metrics` at `/metrics` and readiness at `/ready` (status 200 or 503).

    Over mutual TLS with `files`, else over HTTP.

    Raises:
        SettingsError: It would be plaintext beyond loopback, which the settings don't allow.
    """
    if files is None:
        require_plaintext_allowed(listen.host, settings, "serve metrics on")
    return serve(listen, _with_readiness(make_wsgi_app(metrics.registry), is_ready), files)


def serve(listen: Address, app: Any, files: CertificateFiles | None) -> MetricsServer:
    """Serve a WSGI application; with `files` over mutual TLS and only to scrapers."""
    if files is None:
        server = make_server(listen.host, listen.port, app, _ThreadingServer, _QuietHandler)
    else:
        app = _for_scrapers(app)
        server = make_server(listen.host, listen.port, app, _SecuredServer, _PeerHandler)
        server.socket = server_ssl_context(files).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return MetricsServer(server, listen.host)


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    """Handles each request in a thread."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name it has there)
        del format, args


class _SecuredServer(_ThreadingServer):
    """Ignores errors of requests without a certificate."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address


class _PeerHandler(_QuietHandler):
    """Passes the calling service to the application, and does not log requests."""

    # Seconds until an inactive client is disconnected.
    timeout = 10

    def setup(self) -> None:
        self._told = io.StringIO()
        # In the request's own thread, so that a slow handshake doesn't block others.
        self.request.settimeout(self.timeout)
        self.request.do_handshake()
        super().setup()

    def finish(self) -> None:
        super().finish()
        if told := self._told.getvalue():
            _log.warning("a scrape failed: %s", told.splitlines()[-1])

    def get_stderr(self) -> io.StringIO:
        """Return the buffer for failures: a disconnected client, or metrics that can't be read."""
        return self._told

    def get_environ(self) -> Any:
        peer = peer_service(cast(ssl.SSLSocket, self.connection).getpeercert())
        return {**super().get_environ(), _PEER: peer}


def _with_readiness(app: Any, is_ready: Callable[[], bool]) -> Any:
    def answer(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/ready":
            return app(environ, start_response)
        status, body = ("200 OK", b"ready\n")
        if not is_ready():
            status, body = ("503 Service Unavailable", b"not ready\n")
        start_response(status, [("Content-Type", "text/plain")])
        return [body]

    return answer


def _for_scrapers(app: Any) -> Any:
    def checked(environ: Any, start_response: Any) -> Any:
        if environ[_PEER] in SCRAPERS:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"only those who scrape metrics may read them\n"]

    return checked


def exemplar(context: Context | None = None) -> dict[str, str] | None:
    """Return the trace id of the active span or of `context` for an observation.

    None if the span isn't sampled.
    """
    span = trace.get_current_span(context).get_span_context()
    if not span.trace_flags.sampled:
        return None
    return {"trace_id": trace.format_trace_id(span.trace_id)}


async def watch_loop(metrics: Metrics) -> None:
    """Measure until cancelled how late the event loop wakes a task: the process's saturation."""
    delay = metrics.histogram("event_loop_delay_seconds", "How late the event loop wakes a task")
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOP_PROBE_SECONDS
        await asyncio.sleep(LOOP_PROBE_SECONDS)
        delay.observe(max(0.0, loop.time() - due))


def red_layer(metrics: Metrics) -> Layer:
    """Return the layer that counts rate, errors and duration by service, method and status code.

    Durations carry the trace id if an outer layer has activated a sampled span.
    """
    labels = ("rpc_service", "rpc_method")
    handled = metrics.counter("rpc_handled", "RPCs that ended", (*labels, "code"))
    running = metrics.gauge("rpc_running", "RPCs that run now", labels)
    seconds = metrics.histogram("rpc_seconds", "How long RPCs took", labels)

    @asynccontextmanager
    async def layer(call: Call) -> AsyncGenerator[None, None]:
        names = (call.service, call.name)
        code = grpc.StatusCode.UNKNOWN
        now_running = running.labels(*names)
        now_running.inc()
        began = time.perf_counter()
        try:
            yield
            code = call.code(grpc.StatusCode.OK)
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED
            raise
        except BaseException as error:
            code = call.code_of(error)
            raise
        finally:
            now_running.dec()
            seconds.labels(*names).observe(time.perf_counter() - began, exemplar())
            handled.labels(*names, code.name).inc()

    return layer
