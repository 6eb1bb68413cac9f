"""Component definitions derived from manifests: the process of each kind of service."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from coinmesh_local.definition import (
    Definition,
    DefinitionError,
    Endpoint,
    Probe,
    Scrape,
    check,
    load,
)
from coinmesh_manifests import ports
from coinmesh_manifests.discovery import ManifestError, discover
from coinmesh_manifests.manifest import Kind, Manifest

#: Memory in MiB, seconds until it must be ready, seconds between stop signal and SIGKILL.
LIMITS: Mapping[Kind, tuple[int, float, float]] = {
    "service": (200, 150, 15),
    "collector": (300, 150, 15),
    "stream": (1000, 300, 30),
    "job": (500, 3600, 30),
    "simulator": (400, 120, 10),
    "web": (300, 120, 15),
}
TELEMETRY = {"COINMESH_OTLP_ENDPOINT": "https://${jaeger.otlp}"}
#: Makes Envoy's own log lines conform to the log schema.
LOG_FORMAT = (
    '{"ts":"%%Y-%%m-%%dT%%H:%%M:%%S.%%fZ","level":"%%l","service":"%s",'
    '"logger":"%%n","message":"%%j"}'
)
INHERITED = ("COINMESH_LOG_LEVEL", "COINMESH_TRACE_*")
METRICS = "https://${listen.metrics}/metrics"


def declared(places: Iterable[Path]) -> dict[str, Definition]:
    """Return all components by name.

    Args:
        places: Trees with manifests, and directories of component files.

    Raises:
        DefinitionError: A file is invalid, or two contradict each other.
    """
    found: list[Definition] = []
    for place in places:
        if (place / "services").is_dir():
            found += [one for each in _manifests(place) for one in definitions(each)]
        else:
            found += load(place)
    return check(sorted(found, key=lambda one: one.name))


def _manifests(tree: Path) -> Iterable[Manifest]:
    try:
        return discover(tree).values()
    except ManifestError as error:
        raise DefinitionError(str(error)) from error


def definitions(manifest: Manifest) -> Iterator[Definition]:
    """Yield the components of a manifest: for a web server also the Envoy in front of it."""
    yield from BUILDERS[manifest.kind](manifest)


def dependencies(manifest: Manifest) -> dict[str, str]:
    """Return the dependencies implied by the manifest's grants, and those in its `uses`."""
    granted = manifest.granted()
    found: dict[str, str] = {}
    if granted.has_kafka_acls:
        found |= dict.fromkeys(("kafka-access", "topics", "schemas"), "completed")
    if granted.uses_cassandra:
        found["cassandra-access"] = "completed"
    if granted.uses_redis:
        found["redis"] = "ready"
    if granted.uses_s3:
        found["bucket"] = "completed"
    return found | dict.fromkeys((*granted.http, *manifest.uses), "ready")


def _service(manifest: Manifest) -> Iterator[Definition]:
    """Yield a gRPC server with metrics."""
    # Each replica writes its own audit chain.
    chain = {"COINMESH_AUDIT_WRITER": f"{manifest.name}-${{index}}"}
    yield _definition(
        manifest,
        command=("${bin}/" + manifest.name, *(["serve"] if manifest.kind == "collector" else [])),
        environment={
            **TELEMETRY,
            "COINMESH_GRPC_LISTEN": "${listen.grpc}",
            "COINMESH_METRICS_LISTEN": "${listen.metrics}",
            **(chain if manifest.audit and manifest.run.replicas != "1" else {}),
        },
        inherit=INHERITED,
        ready=Probe(kind="grpc", target="${listen.grpc}"),
        endpoints={manifest.name: Endpoint(url="${all.grpc}", ca="${ca}")},
        metrics=Scrape(url=METRICS),
        routed=True,
        collects=manifest.source if manifest.kind == "collector" else "",
    )


def _stream(manifest: Manifest) -> Iterator[Definition]:
    """Yield a long-running process without an API; its metrics determine its readiness."""
    yield _definition(
        manifest,
        command=("${bin}/" + manifest.name,),
        environment={**TELEMETRY, "COINMESH_METRICS_LISTEN": "${listen.metrics}"},
        inherit=INHERITED,
        ready=Probe(kind="http", target=METRICS, expect=manifest.run.ready),
        metrics=Scrape(url=METRICS),
    )


def _job(manifest: Manifest) -> Iterator[Definition]:
    """Yield a process that opens no listener and exits; it runs when named, not at each start."""
    yield _definition(
        manifest, kind="step", on_demand=True, environment=TELEMETRY, inherit=INHERITED
    )


def _simulator(manifest: Manifest) -> Iterator[Definition]:
    """Yield a simulator of an external system, with an admin listener for tests."""
    told = manifest.name.removeprefix("sim-")
    yield _definition(
        manifest,
        when={"source": "sim"},
        command=(f"${{bin}}/coinmesh-{manifest.name}",),
        environment={
            "COINMESH_SIM_LISTEN": "${listen.public}",
            "COINMESH_SIM_ADMIN_LISTEN": "${listen.admin}",
            "COINMESH_SIM_TLS_DIR": "${tls}",
            "COINMESH_SIM_CLIENTS": "${clients}",
            "COINMESH_SIM_STATE_DIR": "${data}",
        },
        inherit=("COINMESH_SIM_*", "COINMESH_LOG_LEVEL"),
        ready=Probe(kind="http", target=f"https://${{listen.public}}{manifest.run.ready}"),
        endpoints={
            told: Endpoint(url="https://${listen.public}", ca="${ca}"),
            f"{told}-admin": Endpoint(url="https://${listen.admin}", ca="${ca}"),
        },
    )


def _web(manifest: Manifest) -> Iterator[Definition]:
    """Yield a third-party server on a Unix socket, and the Envoy that admits services and users.

    The socket is in a directory that only this user can access, so the server is reachable only
    through Envoy.
    """
    name, server = manifest.name, f"{manifest.name}-server"
    yield _definition(
        manifest,
        name=server,
        ports={},
        prepare=(("rm", "-f", "${run}/http.sock"),),
        environment={},
        inherit=(),
        ready=Probe(kind="exec", target="test -S '${run}/http.sock'"),
        exports={},
    )
    configure = (
        *("${bin}/coinmesh-envoy-front", name, "--out", "${run}/envoy.json"),
        *("--listen", "${listen.https}", "--tls-dir", "${tls}"),
        *("--route", f"/=unix:${{home}}/run/{server}/http.sock"),
    )
    yield Definition(
        name=name,
        description=f"Envoy in front of {server}: mutual TLS, and who may ask what",
        identity=name,
        profile=manifest.run.profile,
        depends_on={server: "ready"},
        ports=ports.of(manifest),
        prepare=(configure,),
        command=(
            *("${bin}/envoy", "-c", "${run}/envoy.json", "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "warn", "--log-format", LOG_FORMAT % name),
        ),
        environment={"COINMESH_GRANTS": f"${{granted.http.{name}}}"},
        memory=80,
        exports=dict(manifest.run.exports),
        ready=Probe(kind="http", target=f"https://${{listen.https}}{manifest.run.ready}"),
        endpoints={name: Endpoint(url="https://${listen.https}", ca="${ca}")},
        served_at=f"/{name}",
    )


BUILDERS: Mapping[Kind, Callable[[Manifest], Iterator[Definition]]] = {
    "service": _service,
    "collector": _service,
    "stream": _stream,
    "job": _job,
    "simulator": _simulator,
    "web": _web,
}


def _definition(manifest: Manifest, **kind: Any) -> Definition:
    """Return the definition of a manifest: its values override the defaults of the kind."""
    run = manifest.run
    memory, timeout, grace = LIMITS[manifest.kind]
    told: dict[str, Any] = {
        "name": manifest.name,
        "description": manifest.description,
        "identity": manifest.name,
        "vital": manifest.vital,
        "profile": run.profile,
        "later": run.later,
        "replicas": run.replicas,
        "provision": run.provision,
        "depends_on": dependencies(manifest),
        "ports": ports.of(manifest),
        "timeout": run.timeout or timeout,
        "grace": run.grace or grace,
        "memory": run.memory or memory,
        "exports": run.exports,
        **kind,
        "inherit": (*run.inherit, *kind["inherit"]),
        "environment": kind["environment"] | dict(run.environment),
    }
    if run.command:
        told["command"] = run.command
    return Definition.model_validate(told)
