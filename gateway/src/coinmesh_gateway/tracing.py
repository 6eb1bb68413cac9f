"""Envoy's own spans: one for each user request, sent by OTLP like the services' spans."""

from dataclasses import dataclass
from typing import Any

from coinmesh_gateway.clusters import plain_cluster
from coinmesh_gateway.tls import Tls
from meshkit.authz import TIER_HEADER
from meshkit.settings import Address, TelemetrySettings

CLUSTER = "jaeger"
SERVICE = "envoy"
#: Span attribute of a request whose user is authenticated; Jaeger drops Envoy's spans without it.
TIER = "coinmesh.tier"
_SAMPLERS = "type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3."


@dataclass(frozen=True)
class Tracing:
    """The destination of spans and the sampling ratio of new traces.

    A request whose `traceparent` is sampled is always retained when its user is authenticated.
    Envoy decides before it checks tokens, so spans of unauthenticated clients are sent too, but not
    stored.
    """

    collector: Address
    ratio: float

    @classmethod
    def of(cls, settings: TelemetrySettings) -> "Tracing | None":
        """Return the tracing of the settings; None where no endpoint is set."""
        if settings.otlp_endpoint is None:
            return None
        collector = Address.parse(settings.otlp_endpoint.rpartition("//")[2])
        return cls(collector, settings.trace_sampling_ratio)

    def cluster(self, tls: Tls | None) -> dict[str, Any]:
        """Return the collector's cluster: spans are lost while it is unreachable."""
        return plain_cluster(CLUSTER, [self.collector], tls)

    def connection_manager(self) -> dict[str, Any]:
        """Return the tracing part of the connection manager."""
        return {
            "client_sampling": {"value": 0},
            # The sampler below decides; it respects the caller's decision.
            "random_sampling": {"value": 100},
            "spawn_upstream_span": False,
            "custom_tags": [{"tag": TIER, "request_header": {"name": TIER_HEADER}}],
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "service_name": SERVICE,
                    "grpc_service": {
                        "envoy_grpc": {"cluster_name": CLUSTER},
                        "timeout": "3s",
                    },
                    "sampler": _extension(
                        "parent_based",
                        "ParentBasedSamplerConfig",
                        wrapped_sampler=_extension(
                            "trace_id_ratio_based",
                            "TraceIdRatioBasedSamplerConfig",
                            sampling_percentage={
                                "numerator": round(self.ratio * 1_000_000),
                                "denominator": "MILLION",
                            },
                        ),
                    ),
                },
            },
        }


def _extension(name: str, kind: str, **config: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.tracers.opentelemetry.samplers.{name}",
        "typed_config": {"@type": f"{_SAMPLERS}{kind}", **config},
    }
