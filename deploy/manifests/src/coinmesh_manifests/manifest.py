"""A manifest: the declaration of a service for the mesh, beside its package and its proto.

Properties common to most services follow from the kind and the grants: see `granted` here for the
grants, and `coinmesh_local.kinds` for the process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from coinmesh_contracts import topics
from coinmesh_manifests.grants import Grants, KafkaAccess, Names, Part

Kind = Literal["service", "collector", "stream", "job", "simulator", "web"]
COLLECTOR_API = "coinmesh.collector.v1.CollectorService"
REGISTRY_READS = ("GET /apis/ccompat/v7/.*",)


class Binding(Part):
    """Envoy's routing to the gRPC services (REST routes follow from the contracts)."""

    #: Path variables with a fixed value here: they distinguish services with the same RPCs.
    bind: Mapping[str, str] = {}
    #: It serves gRPC health and reflection for requests without an :authority; one service does.
    front: bool = False
    #: Maximum seconds of a unary call, and maximum idle seconds of a stream.
    timeout: float = Field(default=15, gt=0)
    idle: float = Field(default=3600, gt=0)


class Run(Part):
    """Properties of the process that differ from the kind's defaults; as in a component file."""

    command: Names = ()
    ports: Mapping[str, int] = {}
    replicas: str = "1"
    memory: int | None = Field(default=None, gt=0)
    timeout: float | None = Field(default=None, gt=0)
    grace: float | None = Field(default=None, gt=0)
    provision: Names = ()
    #: In addition to the settings that every service inherits.
    inherit: Names = ()
    environment: Mapping[str, str] = {}
    #: Settings provided to clients; no other component may export the same name.
    exports: Mapping[str, str] = {}
    #: Readiness check. simulator and web: a path that returns success. stream: text that its
    #: metrics must contain.
    ready: str = ""
    profile: Literal["default", "full"] = "default"
    later: bool = False


class Alert(Part):
    """An alert on this service's metrics, with a section of its name in the runbook."""

    expr: str
    #: How long `expr` must hold, as a Prometheus duration.
    lasts: str = "0s"
    #: page (now) or ticket (in working hours).
    severity: Literal["page", "ticket"]
    summary: str


class Manifest(Grants):
    """One manifest; `name` is the component's and the identity's."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    path: Path
    kind: Kind
    description: str = Field(min_length=1)
    #: The gRPC services that it serves; a collector serves at least CollectorService.
    grpc: Names = ()
    #: It writes an audit chain.
    audit: bool = False
    #: Without it no request is served.
    vital: bool = False
    #: Required components, in addition to those implied by its grants.
    uses: Names = ()
    envoy: Binding = Binding()
    run: Run = Run()
    alerts: Mapping[str, Alert] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for topic in (*self.kafka.read, *self.kafka.write):
            if topic not in topics.BY_NAME and not topic.endswith("*"):
                raise ValueError(f"there is no topic {topic!r}; see coinmesh_contracts.topics")
        if self.grpc and self.kind not in ("service", "collector"):
            raise ValueError(f"a {self.kind} serves no gRPC")
        if self.kind in ("simulator", "web", "stream") and not self.run.ready:
            raise ValueError(f"a {self.kind} needs run.ready")
        if self.kind in ("web", "job") and not self.run.command:
            raise ValueError(f"a {self.kind} needs run.command")
        return self

    @property
    def serves(self) -> Names:
        """Return the gRPC services that Envoy routes to it."""
        own = (COLLECTOR_API,) if self.kind == "collector" else ()
        return tuple(dict.fromkeys((*own, *self.grpc)))

    @property
    def source(self) -> str:
        """Return a collector's name among the collectors, as in its RPCs' paths."""
        return self.name.removeprefix("collector-")

    @property
    def bound(self) -> Mapping[str, str]:
        """Return the path variables with a fixed value here."""
        own = {"collector": self.source} if self.kind == "collector" else {}
        return {**own, **self.envoy.bind}

    def granted(self) -> Grants:
        """Return the grants, including those implied by others.

        A service that reads topics has groups of its name; an audit chain has one writer at a time,
        which continues from the topic's tail, so the chain is written in a transaction and read;
        records are framed with ids of the registry.
        """
        kafka = self.kafka
        groups = dict.fromkeys(kafka.groups or ((f"{self.name}*",) if kafka.read else ()))
        write, read = dict.fromkeys(kafka.write), dict.fromkeys(kafka.read)
        ids = dict.fromkeys(kafka.transactional_ids)
        if self.audit:
            chain = f"audit-{self.name}*"
            groups[chain] = ids[chain] = None
            write[topics.AUDIT.name] = read[topics.AUDIT.name] = None
        kafka = KafkaAccess(
            write=tuple(write),
            read=tuple(read),
            groups=tuple(groups),
            progress=kafka.progress,
            transactional_ids=tuple(ids),
            configs=kafka.configs,
            super=kafka.super,
        )
        found = Grants(
            kafka=kafka,
            cassandra=self.cassandra,
            redis=self.redis,
            s3=self.s3,
            vault=self.vault,
            http=self.http,
        )
        if not found.has_kafka_acls:
            return found
        return found.model_copy(update={"http": {"registry": REGISTRY_READS, **self.http}})
