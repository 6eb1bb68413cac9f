"""`collector-binance serve`: the service."""

from __future__ import annotations

from coinmesh_audit.log import AuditLog
from coinmesh_contracts.collector.v1.collector_service_pb2_grpc import (
    add_CollectorServiceServicer_to_server,
)
from collector_binance.api import CollectorService
from collector_binance.collector import Collector
from collector_binance.settings import CollectorSettings
from meshkit.metrics import Metrics
from meshkit.service import Running, configure, run
from meshkit.service import serve as serve_mesh
from meshkit.tracing import Tracing


def main() -> int:
    """Serve until told to stop; the exit status."""
    return run(_serve())


async def _serve() -> int:
    settings = configure(CollectorSettings)
    metrics = Metrics()
    tracing = Tracing(settings)
    collector = Collector(settings, metrics, tracing)
    log = AuditLog(settings, source=settings.service_name)
    started: list[Running] = []

    def stop() -> None:
        started[0].stop()

    service = CollectorService(collector, stop, log)
    return await serve_mesh(
        settings,
        servicers=[(add_CollectorServiceServicer_to_server, service)],
        resources=[log, collector],
        metrics=metrics,
        tracing=tracing,
        on_started=started.append,
    )
