"""Envoy's own spans: one for each request of a user, sent by OTLP beside its services' spans."""

from dataclasses import dataclass
from typing import Any

from coinmesh_gateway.clusters import plain_cluster
from coinmesh_gateway.tls import Tls
from meshkit.authz import TIER_HEADER
from meshkit.settings import Address, TelemetrySettings

CLUSTER = "jaeger"
SERVICE = "envoy"
#: The span's attribute of a request whose user is known; Jaeger drops Envoy's spans without it.
TIER = "coinmesh.tier"
_SAMPLERS = "type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3."


@dataclass(frozen=True)
class Tracing:
    """Where spans go, and the share of new traces that is kept.

    A request whose `traceparent` says that it is sampled is always kept when its user is known.
    Envoy decides before it looks at tokens, so strangers' spans leave it, too, but none is stored.
    """

    collector: Address
    ratio: float

    @classmethod
    def of(cls, settings: TelemetrySettings) -> "Tracing | None":
        """What the settings say; None where no endpoint is set."""
        if settings.otlp_endpoint is None:
            return None
        collector = Address.parse(settings.otlp_endpoint.rpartition("//")[2])
        return cls(collector, settings.trace_sampling_ratio)

    def cluster(self, tls: Tls | None) -> dict[str, Any]:
        """The connection to the collector: spans are lost while there is none."""
        return plain_cluster(CLUSTER, [self.collector], tls)

    def connection_manager(self) -> dict[str, Any]:
        """The connection manager's part."""
        return {
            "client_sampling": {"value": 0},
            # The sampler below decides, which knows the caller's decision.
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
