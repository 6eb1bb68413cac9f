"""All dashboards: one for each question of an operator, and one for each service."""

from pathlib import Path
from typing import Final

from coinmesh_manifests.discovery import CHECKOUT
from coinmesh_observability.component_dashboards import (
    CASSANDRA,
    COMPONENTS,
    EDGE,
    KAFKA,
    SPARK,
)
from coinmesh_observability.mesh_dashboards import FRESHNESS, JOBS, LAG, QUALITY, THROUGHPUT
from coinmesh_observability.panels import Dashboard
from coinmesh_observability.service_dashboards import ERRORS, SERVICE, of_manifests

ALL: Final[tuple[Dashboard, ...]] = (
    *(THROUGHPUT, LAG, JOBS, ERRORS, FRESHNESS, SERVICE),
    *(COMPONENTS, KAFKA, CASSANDRA, SPARK, QUALITY, EDGE),
)


def dashboards(tree: Path = CHECKOUT) -> tuple[Dashboard, ...]:
    """Return those of `ALL`, and one for each service declared by a manifest of the tree."""
    return (*ALL, *of_manifests(tree))
