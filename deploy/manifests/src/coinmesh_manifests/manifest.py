"""A manifest: everything that the mesh needs of a service beside its package and its proto.

What most services have alike follows from the kind and the grants: see `granted` here for the
grants, and for the process `coinmesh_local.kinds`.
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
    """How Envoy reaches the gRPC services (REST routes follow from the contracts)."""

    #: Path variables that have one value here: they distinguish services with the same RPCs.
    bind: Mapping[str, str] = {}
    #: It answers gRPC health and reflection without an authority; one service does.
    front: bool = False
    #: Seconds that a unary call may take, and that a stream may be silent.
    timeout: float = Field(default=15, gt=0)
    idle: float = Field(default=3600, gt=0)


class Run(Part):
    """What of the process differs from the kind's defaults; as in a component file."""

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
    #: Settings that clients receive; no other component may export the same name.
    exports: Mapping[str, str] = {}
    #: What shows that it serves. simulator and web: a path that is answered with success. stream:
    #: what its metrics must contain.
    ready: str = ""
    profile: Literal["default", "full"] = "default"
    later: bool = False


class Alert(Part):
    """An alert on this service's metrics, with a section of its name in the runbook."""

    expr: str
    #: How long it must hold, as Prometheus writes durations.
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
    #: The gRPC services that it serves; a collector serves at least its own.
    grpc: Names = ()
    #: It keeps an audit chain.
    audit: bool = False
    #: Without it nobody is served.
    vital: bool = False
    #: Components that it needs, beside those that its grants name.
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
        """The gRPC services that Envoy routes to it."""
        own = (COLLECTOR_API,) if self.kind == "collector" else ()
        return tuple(dict.fromkeys((*own, *self.grpc)))

    @property
    def source(self) -> str:
        """A collector's name among the collectors, as its RPCs' paths have it."""
        return self.name.removeprefix("collector-")

    @property
    def bound(self) -> Mapping[str, str]:
        """The path variables that have one value here."""
        own = {"collector": self.source} if self.kind == "collector" else {}
        return {**own, **self.envoy.bind}

    def granted(self) -> Grants:
        """The grants with those that follow from others.

        Who reads topics has groups of its name; an audit chain has one writer at a time, which
        continues from the topic's tail, so it is written in a transaction and read; records are
        framed with ids of the registry.
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
