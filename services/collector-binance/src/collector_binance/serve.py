"""`collector-binance serve`: run the collector service."""

from __future__ import annotations

from coinmesh_audit.log import AuditLog
from coinmesh_contracts.collector.v1.collector_service_pb2_grpc import (
    add_CollectorServiceServicer_to_server,
)
from coinmesh_sources.service import CollectorService
from collector_binance.collector import BinanceCollector
from collector_binance.settings import CollectorSettings
from meshkit.service import Running, configure, run
from meshkit.service import serve as serve_mesh
from meshkit.tracing import Tracing


def main() -> int:
    """Serve until stopped and return the exit status."""
    return run(_serve())


async def _serve() -> int:
    settings = configure(CollectorSettings)
    tracing = Tracing(settings)
    collector = BinanceCollector(settings, tracing)
    audit_log = AuditLog(settings, source=settings.service_name)
    started: list[Running] = []

    def stop() -> None:
        started[0].stop()

    service = CollectorService(collector, stop, audit_log)
    return await serve_mesh(
        settings,
        servicers=[(add_CollectorServiceServicer_to_server, service)],
        resources=[audit_log, collector],
        tracing=tracing,
        on_started=started.append,
    )
