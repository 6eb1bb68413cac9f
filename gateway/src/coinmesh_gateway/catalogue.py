"""The service catalogue: the services behind Envoy, read from their manifests."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from coinmesh_manifests.discovery import CHECKOUT, ManifestError, discover


class CatalogueError(ValueError):
    """Raised when the catalogue contradicts itself, the contracts or the arguments."""


class Service(BaseModel):
    """One service of the catalogue (`coinmesh_manifests.manifest.Binding` defines the fields)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grpc: tuple[str, ...] = Field(min_length=1)
    bind: Mapping[str, str] = Field(default_factory=dict)
    front: bool = False
    timeout: float = Field(default=15, gt=0)
    idle: float = Field(default=3600, gt=0)


Catalogue = Mapping[str, Service]


def declared(tree: Path = CHECKOUT) -> dict[str, Service]:
    """Return the services of a tree that serve gRPC; CatalogueError for an invalid manifest."""
    try:
        manifests = discover(tree)
    except ManifestError as error:
        raise CatalogueError(str(error)) from error
    return {
        name: Service(
            grpc=manifest.serves,
            bind=manifest.bound,
            front=manifest.envoy.front,
            timeout=manifest.envoy.timeout,
            idle=manifest.envoy.idle,
        )
        for name, manifest in manifests.items()
        if manifest.serves
    }


def servers(catalogue: Catalogue) -> dict[str, list[str]]:
    """Return the names of the catalogue's services that serve each gRPC service."""
    found: dict[str, list[str]] = {}
    for name, service in catalogue.items():
        for grpc in service.grpc:
            found.setdefault(grpc, []).append(name)
    return found
