"""Lifecycle of a service: listen, report health, drain, stop.

A service without business logic is its settings, its servicers and this::

    async def main() -> int:
        settings = configure(ServiceSettings)
        return await serve(settings, servicers=[(add_EchoServiceServicer_to_server, Echo())])

    raise SystemExit(run(main()))
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from meshkit import log_counts, logs
from meshkit import metrics as mesh_metrics
from meshkit.authz import Rule, authz_layer, rules
from meshkit.calls import Layer, LayeredInterceptor
from meshkit.deadlines import deadline_layer
from meshkit.errors import MeshError, error_layer
from meshkit.metrics import Metrics, MetricsServer
from meshkit.readiness import Readiness
from meshkit.resources import Resource
from meshkit.rotation import follow
from meshkit.settings import Address, ServiceSettings, SettingsError, load
from meshkit.tls import CertificateFiles, bind, certificate_files
from meshkit.tracing import Tracing, trace_layer

_log = logging.getLogger(__name__)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # A port in use is an error to report, not a port to share.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Bytes of a call's metadata; Envoy lets users send no more than 32 KiB of headers.
    ("grpc.max_metadata_size", 48 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)
STEP_SECONDS = 15.0

Servicers = Sequence[tuple[Callable[[Any, Any], None], object]]
S = TypeVar("S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class Running:
    """A started service: its listening addresses, and a function to drain it."""

    grpc: Address | None
    metrics: Address | None
    stop: Callable[[], None]


def configure(settings_class: type[S]) -> S:
    """Read a service's settings (exit status 2 with a line per wrong one) and set up its logs."""
    settings = load(settings_class)
    logs.configure(settings.service_name, settings.log_level)
    return settings


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on uvloop; return its exit status, 2 for a wrong setting, 1 for other errors."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    except SettingsError as error:
        logs.tell(__name__, str(error), logging.CRITICAL)
        return 2
    except MeshError as error:
        _log.critical("%s", error.message, extra={"reason": error.reason})
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:
        _log.critical("the service failed", exc_info=True)
    return 1


async def serve(
    settings: ServiceSettings,
    servicers: Servicers = (),
    resources: Sequence[Resource] = (),
    *,
    metrics: Metrics | None = None,
    tracing: Tracing | None = None,
    on_started: Callable[[Running], None] | None = None,
) -> int:
    """Run a service until SIGTERM, SIGINT or the failure of a resource; return the exit status.

    Args:
        settings: The service's settings.
        servicers: Pairs of a generated `add_…_to_server` and a servicer. Without any there is no
            gRPC listener, and only `/ready` of the metrics listener reports readiness.
        resources: Parts other than RPCs, each after those that it uses. The service is ready while
            all of them are.
        metrics: The process's metrics, if they are needed earlier. Resources register theirs with
            them.
        tracing: Passed in if other parts than the RPCs create spans; it is shut down at the end.
        on_started: Called with the addresses once the server listens.
    """
    metrics = metrics or Metrics()
    tracing = tracing or Tracing(settings)
    for part in (tracing, *resources):
        part.register(metrics)
    rpc = _rpc(settings, servicers, resources, metrics, tracing) if servicers else None
    readiness = Readiness(resources, metrics)
    stopping = asyncio.Event()
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(asyncio.to_thread, tracing.shutdown)
        cleanup.enter_context(log_counts.counted(metrics))
        address = bind(rpc.server, settings.grpc_listen, settings) if rpc else None
        scraped = _serve_metrics(settings, metrics, readiness, cleanup)
        if rpc is not None:
            await rpc.server.start()
        _stop_on_signals(stopping, cleanup)
        tasks = [
            asyncio.create_task(readiness.run(rpc and rpc.set_health), name="readiness"),
            asyncio.create_task(mesh_metrics.watch_loop(metrics), name="event loop"),
        ]
        if files := certificate_files(settings):
            renew = _Renewal(files, metrics)
            tasks.append(asyncio.create_task(follow(files.version, renew), name="certificate"))
        tasks += [
            asyncio.create_task(resource.run(), name=type(resource).__name__)
            for resource in resources
        ]
        scraped_at = scraped.address if scraped else None
        _log.info("serving", extra={"grpc": str(address), "metrics": str(scraped_at)})
        if on_started is not None:
            on_started(Running(address, scraped_at, stopping.set))
        failed = False
        try:
            failed = await _until_stopped(stopping, tasks)
        finally:
            _log.info("draining", extra={"grace_seconds": settings.drain_grace_seconds})
            for resource in resources:
                resource.on_stopping()
            if rpc is not None:
                await rpc.health.enter_graceful_shutdown()
                await rpc.server.stop(settings.drain_grace_seconds)
            await _cancel(tasks)
            failed = not await _close(resources) or failed
        _log.info("stopped", extra={"failed": failed})
        return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class _Rpc:
    """The gRPC server, its health, and the names of its services."""

    server: grpc.aio.Server
    health: health.HealthServicer
    names: Sequence[str]

    async def set_health(self, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", *self.names):
            await self.health.set(name, status.SERVING if ready else status.NOT_SERVING)


def _rpc(
    settings: ServiceSettings,
    servicers: Servicers,
    resources: Sequence[Resource],
    metrics: Metrics,
    tracing: Tracing,
) -> _Rpc:
    layers: list[Layer] = [
        # Outermost, so that durations measured inside carry the trace id.
        trace_layer(tracing),
        mesh_metrics.red_layer(metrics),
        error_layer(),
        deadline_layer(settings.default_deadline_seconds),
    ]
    table: dict[str, Rule] = {}
    if settings.tls_dir is not None:
        layers.append(authz_layer(table, [resource.on_denied for resource in resources]))
    options = [*SERVER_OPTIONS, *_ages(certificate_files(settings))]
    server = grpc.aio.server(interceptors=[LayeredInterceptor(layers)], options=options)
    registrar = _Registrar(server)
    health_servicer = health.HealthServicer()
    for add, servicer in servicers:
        add(servicer, registrar)
    if settings.tls_dir is not None:
        table.update(rules(registrar.names))
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflected = [*registrar.names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
    reflection.enable_server_reflection([*reflected, reflection.SERVICE_NAME], server)
    return _Rpc(server, health_servicer, registrar.names)


def _ages(files: CertificateFiles | None) -> list[tuple[str, int]]:
    """Return options that close connections before their certificate expires.

    Without a certificate they are closed so that clients find new replicas.
    """
    seconds = files.read().connection_seconds if files else 900.0
    return [
        ("grpc.max_connection_age_ms", round(seconds * 1000)),
        # Grace for open calls; with the age it is below a third of the certificate's lifetime.
        ("grpc.max_connection_age_grace_ms", round(seconds * 1000 / 15)),
    ]


class _Registrar:
    """Forwards registrations to the server and records the services' names."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = cast(Any, server)
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self.names += [handler.service_name() for handler in handlers]
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._server.add_registered_method_handlers(service, handlers)


def _serve_metrics(
    settings: ServiceSettings, metrics: Metrics, readiness: Readiness, cleanup: AsyncExitStack
) -> MetricsServer | None:
    if settings.metrics_listen is None:
        return None
    listen = Address.parse(settings.metrics_listen)
    try:
        files = certificate_files(settings)
        server = mesh_metrics.start(listen, metrics, settings, files, lambda: readiness.ready)
    except OSError as error:
        raise SettingsError(
            f"COINMESH_METRICS_LISTEN: can't listen on {listen}: {error.strerror}; "
            "free the port or set another address"
        ) from error
    cleanup.callback(server.close)
    return server


class _Renewal:
    """Updates metrics after the service's certificate was renewed; gRPC reloads it itself."""

    def __init__(self, files: CertificateFiles, metrics: Metrics) -> None:
        self._files = files
        self._expiry = metrics.gauge(
            "certificate_not_after_seconds", "When our certificate expires, as a Unix time"
        )

    def __call__(self) -> None:
        self._expiry.set(self._files.read().not_after.timestamp())


def _stop_on_signals(stopping: asyncio.Event, cleanup: AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
        cleanup.callback(loop.remove_signal_handler, number)


async def _until_stopped(stopping: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> bool:
    """Wait for the stop signal (False) or the first failed task (True, logged)."""
    asked = asyncio.create_task(stopping.wait())
    pending: set[asyncio.Task[Any]] = {asked, *tasks}
    try:
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {asked}:
                if task.cancelled():
                    _log.critical("the task %s was cancelled", task.get_name())
                    return True
                if failure := task.exception():
                    error = _cause(failure)
                    reason = error.reason if isinstance(error, MeshError) else type(error).__name__
                    _log.critical(
                        "%s failed: %s",
                        task.get_name(),
                        error,
                        exc_info=failure,
                        extra={"reason": reason},
                    )
                    return True
            if asked in done:
                return False
    finally:
        asked.cancel()


def _cause(error: BaseException) -> BaseException:
    """Return the error; of a group the first with a reason, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(each) for each in cast(BaseExceptionGroup[BaseException], error).exceptions]
    return next(
        (cause for cause in causes if isinstance(cause, MeshError | SettingsError)), causes[0]
    )


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    _, stuck = await asyncio.wait(tasks, timeout=STEP_SECONDS)
    for task in stuck:
        _log.error("the task %s doesn't end: %r", task.get_name(), task.get_coro())


async def _close(resources: Sequence[Resource]) -> bool:
    """Close all in reverse order, even if one fails; return False if one did."""
    well = True
    for resource in reversed(resources):
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await resource.close()
        except Exception:
            _log.exception("%s could not be closed", type(resource).__name__)
            well = False
    return well
