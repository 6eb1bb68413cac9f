"""`collector-binance serve`: the service."""

from __future__ import annotations

from coinmesh_contracts.collector.v1.collector_service_pb2_grpc import (
    add_CollectorServiceServicer_to_server,
)
from collector_binance.api import CollectorService
from collector_binance.collector import Collector
from collector_binance.settings import CollectorSettings
from meshkit.metrics import Metrics
from meshkit.service import Running, configure, run
from meshkit.service import serve as serve_mesh


def main() -> int:
    """Serve until told to stop; the exit status."""
    return run(_serve())


async def _serve() -> int:
    settings = configure(CollectorSettings)
    metrics = Metrics()
    collector = Collector(settings, metrics)
    started: list[Running] = []

    def stop() -> None:
        started[0].stop()

    service = CollectorService(collector, stop)
    return await serve_mesh(
        settings,
        servicers=[(add_CollectorServiceServicer_to_server, service)],
        background=[collector.run],
        on_drain=[collector.close],
        readiness={"connections": collector.is_ready},
        metrics=metrics,
        on_started=started.append,
    )
