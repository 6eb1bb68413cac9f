"""What the manifests declare, for tests that cover all services."""

from importlib import import_module

from google.protobuf.descriptor_pb2 import FileDescriptorSet, ServiceDescriptorProto

from coinmesh_contracts.sources import descriptor_set
from coinmesh_manifests import ports
from coinmesh_manifests.discovery import discover

MANIFESTS = discover()
#: The gRPC services of each service that has any.
SERVED = {name: one.serves for name, one in MANIFESTS.items() if one.serves}
COLLECTORS = sorted(one.source for one in MANIFESTS.values() if one.kind == "collector")
#: Component and listener of every service, job and simulator.
LISTENERS = {(name, port) for name, one in MANIFESTS.items() for port in ports.of(one)}


def apis() -> dict[str, ServiceDescriptorProto]:
    """The gRPC services of the contracts by name; their modules are loaded, and so their rules."""
    found: dict[str, ServiceDescriptorProto] = {}
    for file in FileDescriptorSet.FromString(descriptor_set()).file:
        if file.service and file.package.startswith("coinmesh."):
            place = file.name.removeprefix("coinmesh/").removesuffix(".proto").replace("/", ".")
            import_module(f"coinmesh_contracts.{place}_pb2")
            found |= {f"{file.package}.{service.name}": service for service in file.service}
    return found


def first_rpc(api: str) -> str:
    """The path of an RPC of the service."""
    return f"/{api}/{apis()[api].method[0].name}"
