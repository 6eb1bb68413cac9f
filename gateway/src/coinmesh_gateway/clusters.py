"""Envoy's clusters: one for each service of the catalogue, with its replicas."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coinmesh_gateway.tls import ServerCa, Tls
from meshkit.settings import Address

_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def authority(service: str) -> str:
    """Return the :authority by which gRPC clients select a service behind Envoy."""
    return f"{service}.coinmesh"


def plain_cluster(name: str, endpoints: Sequence[Address], tls: Tls | None) -> dict[str, Any]:
    """Return an HTTP/2 cluster for a server of the mesh: round robin over its replicas."""
    return {
        **_reached(name, endpoints),
        "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                **({} if tls is None else {"common_http_protocol_options": tls.connection()}),
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "connection_keepalive": {"interval": "30s", "timeout": "10s"}
                    }
                },
            }
        },
        **({} if tls is None else {"transport_socket": tls.upstream(name)}),
    }


def cluster(service: str, endpoints: Sequence[Address], tls: Tls | None) -> dict[str, Any]:
    """Return a service's cluster: round robin over the healthy replicas."""
    return {
        **plain_cluster(service, endpoints, tls),
        # When none is healthy, all are tried: a service without one of its stores can return its
        # own error.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"authority": authority(service)},
            }
        ],
        # Only transport failures count: an error returned by a service is no reason to eject it.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 256,
                    "max_pending_requests": 1024,
                    "max_requests": 4096,
                    "max_retries": 64,
                }
            ]
        },
    }


def http_cluster(name: str, address: Address, ca: ServerCa) -> dict[str, Any]:
    """Return the cluster of an HTTPS server outside the mesh, verified by `ca` and its address."""
    kind = "IP_ADDRESS" if _is_ip(address.host) else "DNS"
    return {
        **_reached(name, [address]),
        "transport_socket": ca.upstream(kind, address.host),
    }


def mutual_cluster(name: str, address: Address, service: str, tls: Tls) -> dict[str, Any]:
    """Return the cluster of `service`, HTTP/1.1 under mutual TLS; its identity is verified."""
    return {
        **_reached(name, [address]),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "common_http_protocol_options": tls.connection(),
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "transport_socket": tls.upstream(service, "http/1.1"),
    }


def loopback_cluster(name: str, address: Address) -> dict[str, Any]:
    """Return the cluster of a server on this machine, HTTP/1.1 without TLS."""
    return _reached(name, [address])


def socket_cluster(name: str, path: Path) -> dict[str, Any]:
    """Return the cluster of a server on a Unix socket, HTTP/1.1."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _reached(name: str, endpoints: Sequence[Address]) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC" if all(_is_ip(each.host) for each in endpoints) else "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_endpoint(each) for each in endpoints]}],
        },
    }


def _endpoint(address: Address) -> dict[str, Any]:
    socket = {"address": address.host, "port_value": address.port}
    return {"endpoint": {"address": {"socket_address": socket}}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
