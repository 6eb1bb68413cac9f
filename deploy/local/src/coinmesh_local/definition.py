"""Component definitions: the schema of files in `components/` and their placeholders."""

import string
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Profile = Literal["default", "full"]
#: The component that issues certificates.
CERTIFICATES = "certs"
ProbeKind = Literal["tcp", "http", "grpc", "log", "exec", "kafka", "cql", "spawn"]


class DefinitionError(Exception):
    """Raised when a component file is invalid; the message names the file and the correction."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(Strict):
    """Readiness check of a component. `target` is an address, URLs, a pattern or a command."""

    kind: ProbeKind = "spawn"
    target: str = ""
    #: Expected number of brokers for `kafka`, the service's name for `grpc`; for `http` a text that
    #: the responses must contain.
    expect: str = ""
    #: CA file of a listener whose certificate is not issued by the mesh's CA.
    ca: str = ""
    #: TLS directory of the probe's client certificate; set for components that have an identity.
    tls: str = ""


class Endpoint(Strict):
    """An address for people and clients, with the CA file that verifies it, if any."""

    url: str
    ca: str | None = None


class Scrape(Strict):
    """URL of the Prometheus metrics of each replica."""

    url: str
    #: File with the password of the user `prometheus`, where the exporter supports no certificates.
    password_file: str | None = None


class Addition(Strict):
    """Additions to a component in the full profile; fields as in `Definition`."""

    provision: tuple[str, ...] = ()
    ports: dict[str, int] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    #: Inserted after the command's first word.
    arguments: tuple[str, ...] = ()
    memory: int = 0
    metrics: Scrape | None = None


class Definition(Strict):
    """One component file. Every string may contain `${…}` placeholders (see `Mesh.context`)."""

    name: str
    description: str
    kind: Literal["service", "step"] = "service"
    #: Options under which the component exists, e.g. `{source = "sim"}`.
    when: dict[str, str] = Field(default_factory=dict)
    #: The smallest profile that includes it; `full` includes all of `default`.
    profile: Profile = "default"
    #: It starts in the background after everything else is up, and nothing waits for it. Slow work
    #: belongs in its `prepare`, which the supervisor runs.
    later: bool = False
    #: The function that the mesh lacks until it is ready, as a clause.
    without: str = ""
    #: It runs only when it is named.
    on_demand: bool = False
    #: Without it no request is served.
    vital: bool = False
    #: Envoy routes to its gRPC services.
    routed: bool = False
    #: The path below which Envoy routes users to its HTTP server.
    served_at: str = ""
    #: The exchange that it collects, by its name in RPCs.
    collects: str = ""
    #: Its name in the access table: it waits for its certificate and receives COINMESH_TLS_DIR.
    identity: str = ""
    replicas: str = "1"
    #: Dependencies that must be provisioned before the component can start.
    provision: tuple[str, ...] = ()
    #: Component name → "ready" (a service) or "completed" (a step).
    depends_on: dict[str, Literal["ready", "completed"]] = Field(default_factory=dict)
    #: Port name → port of the first replica; further replicas use the following numbers.
    ports: dict[str, int] = Field(default_factory=dict)
    #: File written below run/<instance>/ → template below `config/`.
    files: dict[str, str] = Field(default_factory=dict)
    #: Commands run to completion before each start.
    prepare: tuple[tuple[str, ...], ...] = ()
    command: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    #: Names (or prefixes ending in `*`) of the caller's variables that are passed on.
    inherit: tuple[str, ...] = ()
    ready: Probe = Probe()
    #: Seconds after which a component that is not ready counts as failed.
    timeout: float = 60
    stop_signal: str = "SIGTERM"
    #: Seconds between the stop signal and SIGKILL.
    grace: float = 10
    #: Expected maximum memory in MiB; a test keeps the sum of all components below 8 GiB.
    memory: int = 0
    #: Settings provided to clients of this component (without the COINMESH_ prefix).
    exports: dict[str, str] = Field(default_factory=dict)
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    metrics: Scrape | None = None
    full: Addition = Addition()

    def with_addition(self) -> "Definition":
        """Return this component with the additions of the full profile."""
        more = self.full
        return self.model_copy(
            update={
                "provision": self.provision + more.provision,
                "ports": self.ports | more.ports,
                "files": self.files | more.files,
                "prepare": self.prepare + more.prepare,
                "command": self.command[:1] + more.arguments + self.command[1:],
                "memory": self.memory + more.memory,
                "metrics": more.metrics or self.metrics,
            }
        )


class Template(string.Template):
    """Placeholders of the form `${a.b}`; a literal `$` is written as `$$`."""

    idpattern = r"[a-zA-Z_][a-zA-Z0-9_.-]*"


def fill(text: str, context: Mapping[str, str], where: str) -> str:
    """Return `text` with its placeholders filled in.

    Raises:
        DefinitionError: A placeholder is unknown or malformed.
    """
    try:
        return Template(text).substitute(context)
    except KeyError as error:
        raise DefinitionError(f"{where}: unknown placeholder ${{{error.args[0]}}}") from error
    except ValueError as error:
        raise DefinitionError(f"{where}: {error} (write a plain dollar sign as $$)") from error


def load(directory: Path) -> list[Definition]:
    """Return the component definitions in a directory."""
    found: list[Definition] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            found.append(Definition(name=path.stem, **tomllib.loads(path.read_text())))
        except (ValidationError, tomllib.TOMLDecodeError, TypeError) as error:
            raise DefinitionError(f"{path}: {error}") from error
    return found


def check(definitions: Iterable[Definition]) -> dict[str, Definition]:
    """Return the definitions by name.

    Raises:
        DefinitionError: Two have the same name, endpoint or exported setting, a dependency is
            unknown or of the wrong kind, or dependencies form a cycle.
    """
    found: dict[str, Definition] = {}
    for definition in definitions:
        if definition.name in found:
            raise DefinitionError(f"two components have the name {definition.name}")
        found[definition.name] = _with_certificates(definition)
    _check_unique(found.values())
    for definition in found.values():
        for name, condition in definition.depends_on.items():
            if name not in found:
                raise DefinitionError(f"{definition.name}: depends on unknown component {name}")
            expected = "completed" if found[name].kind == "step" else "ready"
            if found[name].later:
                raise DefinitionError(
                    f"{definition.name}: {name} comes later, so nothing can depend on it"
                )
            if condition != expected:
                raise DefinitionError(
                    f"{definition.name}: a {found[name].kind} can be {expected}, not {condition}"
                )
    closure(found, found)
    return found


def _check_unique(definitions: Iterable[Definition]) -> None:
    """Raise DefinitionError when two components have the same endpoint or exported setting."""
    owners: dict[str, str] = {}
    for one in definitions:
        taken = (
            *(f"the endpoint {name}" for name in one.endpoints),
            *(f"the exported setting {name}" for name in one.exports),
        )
        for thing in taken:
            if (owner := owners.setdefault(thing, one.name)) != one.name:
                raise DefinitionError(f"{owner} and {one.name} both have {thing}")


def _with_certificates(found: Definition) -> Definition:
    """Add the certificate agent to the dependencies of a component that has an identity."""
    if not found.identity or found.name == CERTIFICATES:
        return found
    return found.model_copy(update={"depends_on": {CERTIFICATES: "ready", **found.depends_on}})


def closure(definitions: Mapping[str, Definition], targets: Iterable[str]) -> list[str]:
    """Return `targets` and all their dependencies, each after its own dependencies."""
    ordered: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in path:
            raise DefinitionError(f"dependency cycle: {' → '.join([*path, name])}")
        if name in ordered:
            return
        if name not in definitions:
            known = ", ".join(sorted(definitions))
            raise DefinitionError(f"unknown component {name!r}; there are: {known}")
        path.append(name)
        for dependency in definitions[name].depends_on:
            visit(dependency)
        path.pop()
        ordered.append(name)

    for target in targets:
        visit(target)
    return ordered
