"""All dashboards, each for one question that an operator asks."""

from typing import Final

from coinmesh_observability.component_dashboards import (
    CASSANDRA,
    COMPONENTS,
    EDGE,
    KAFKA,
    SPARK,
)
from coinmesh_observability.mesh_dashboards import FRESHNESS, JOBS, LAG, QUALITY, THROUGHPUT
from coinmesh_observability.panels import Dashboard
from coinmesh_observability.service_dashboards import ERRORS, SERVICE

ALL: Final[tuple[Dashboard, ...]] = (
    *(THROUGHPUT, LAG, JOBS, ERRORS, FRESHNESS, SERVICE),
    *(COMPONENTS, KAFKA, CASSANDRA, SPARK, QUALITY, EDGE),
)
