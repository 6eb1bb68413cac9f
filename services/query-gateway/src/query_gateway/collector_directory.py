"""CollectorDirectoryService: the collectors of the settings, and whether each is serving."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coinmesh_contracts.query.v1 import collector_directory_service_pb2 as api
from coinmesh_contracts.query.v1.collector_directory_service_pb2_grpc import (
    CollectorDirectoryServiceServicer,
    add_CollectorDirectoryServiceServicer_to_server,
)
from meshkit.resources import Resource
from meshkit.tls import channel
from query_gateway.settings import GatewaySettings, parse_collectors

add_collector_directory = add_CollectorDirectoryServiceServicer_to_server
Context = grpc.aio.ServicerContext[Any, Any]
_CHECK_SECONDS: Final = 2.0


class CollectorDirectory(CollectorDirectoryServiceServicer, Resource):
    """Lists collectors.

    Args:
        settings: The collectors and the connection settings.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        collectors = parse_collectors(settings.collectors)
        self._channels = {
            name: channel(address, settings) for name, address in sorted(collectors.items())
        }

    async def ListCollectors(  # noqa: N802
        self, request: api.ListCollectorsRequest, context: Context
    ) -> api.ListCollectorsResponse:
        """Return the collectors by name; one that doesn't answer within 2 s isn't serving."""
        serving = await asyncio.gather(*(_serving(one) for one in self._channels.values()))
        found = [
            api.Collector(name=name, serving=healthy)
            for name, healthy in zip(self._channels, serving, strict=True)
        ]
        return api.ListCollectorsResponse(collectors=found)

    async def close(self) -> None:
        """Close the connections."""
        for one in self._channels.values():
            await one.close()


async def _serving(connection: Any) -> bool:
    stub = cast(Any, health_pb2_grpc.HealthStub(connection))
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
