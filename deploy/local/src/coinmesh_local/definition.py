"""Component definitions: what a file in `components/` may say, and how its text is filled in."""

import string
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Profile = Literal["default", "full"]
#: The component that makes certificates.
CERTIFICATES = "certs"
ProbeKind = Literal["tcp", "http", "grpc", "log", "exec", "kafka", "cql", "spawn"]


class DefinitionError(Exception):
    """A component file is wrong; the message names the file and what to correct."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(Strict):
    """When a component counts as ready. `target` is an address, URLs, a pattern or a command."""

    kind: ProbeKind = "spawn"
    target: str = ""
    #: Expected number of brokers for `kafka`, the service's name for `grpc`, for `http` what the
    #: answers must contain.
    expect: str = ""
    #: The authority of a listener that the mesh's own doesn't vouch for.
    ca: str = ""
    #: Whose certificate the probe shows; filled in for components that have an identity.
    tls: str = ""


class Endpoint(Strict):
    """An address that people and clients use, with the CA file that vouches for it, if any."""

    url: str
    ca: str | None = None


class Scrape(Strict):
    """Where a component shows its metrics to Prometheus, in each replica."""

    url: str
    #: File with the password of the user `prometheus`, where the exporter knows no certificates.
    password_file: str | None = None


class Addition(Strict):
    """What a component has besides in the full profile; each as in `Definition`."""

    provision: tuple[str, ...] = ()
    ports: dict[str, int] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    prepare: tuple[tuple[str, ...], ...] = ()
    #: Put after the command's first word.
    arguments: tuple[str, ...] = ()
    memory: int = 0
    metrics: Scrape | None = None


class Definition(Strict):
    """One component file. Every string may hold `${…}` placeholders (see `Mesh.context`)."""

    name: str
    description: str
    kind: Literal["service", "step"] = "service"
    #: Options that must hold for the component to exist, e.g. `{source = "sim"}`.
    when: dict[str, str] = Field(default_factory=dict)
    #: The smallest profile that it belongs to; `full` holds all of `default`.
    profile: Profile = "default"
    #: It comes in the background when everything else is up, and nothing waits for it. What takes
    #: long belongs into its `prepare`: the supervisor does that.
    later: bool = False
    #: What the mesh lacks until it has come, as a clause.
    without: str = ""
    #: It runs only when it is named.
    on_demand: bool = False
    #: Without it nobody is served.
    vital: bool = False
    #: Envoy routes to its gRPC services.
    routed: bool = False
    #: The path below which Envoy routes users to its HTTP server.
    served_at: str = ""
    #: The source that it collects, by the name that RPCs give it.
    collects: str = ""
    #: Its name in the access table: it waits for its certificate and gets COINMESH_TLS_DIR.
    identity: str = ""
    replicas: str = "1"
    #: What provisioning must bring before the component can start.
    provision: tuple[str, ...] = ()
    #: Component name → "ready" (a service) or "completed" (a step).
    depends_on: dict[str, Literal["ready", "completed"]] = Field(default_factory=dict)
    #: Port name → number of the first replica; the others count up from it.
    ports: dict[str, int] = Field(default_factory=dict)
    #: File written below run/<instance>/ → template below `config/`.
    files: dict[str, str] = Field(default_factory=dict)
    #: Commands run to their end before each start.
    prepare: tuple[tuple[str, ...], ...] = ()
    command: tuple[str, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    #: Names (or prefixes ending in `*`) of the caller's variables that are handed on.
    inherit: tuple[str, ...] = ()
    ready: Probe = Probe()
    #: Seconds until a component that is not ready counts as failed.
    timeout: float = 60
    stop_signal: str = "SIGTERM"
    #: Seconds between the stop signal and SIGKILL.
    grace: float = 10
    #: What it is expected to take at most, in MiB; the sum of all is held below 8 GiB by a test.
    memory: int = 0
    #: Settings that clients of this component receive (without the COINMESH_ prefix).
    exports: dict[str, str] = Field(default_factory=dict)
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    metrics: Scrape | None = None
    full: Addition = Addition()

    def with_addition(self) -> "Definition":
        """This component as it is in the full profile."""
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
    """`${a.b}` placeholders; a single `$` elsewhere is kept as it is only when doubled."""

    idpattern = r"[a-zA-Z_][a-zA-Z0-9_.-]*"


def fill(text: str, context: Mapping[str, str], where: str) -> str:
    """`text` with its placeholders filled in; DefinitionError names an unknown one."""
    try:
        return Template(text).substitute(context)
    except KeyError as error:
        raise DefinitionError(f"{where}: unknown placeholder ${{{error.args[0]}}}") from error
    except ValueError as error:
        raise DefinitionError(f"{where}: {error} (write a plain dollar sign as $$)") from error


def load(directory: Path) -> list[Definition]:
    """The component files of a directory."""
    found: list[Definition] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            found.append(Definition(name=path.stem, **tomllib.loads(path.read_text())))
        except (ValidationError, tomllib.TOMLDecodeError, TypeError) as error:
            raise DefinitionError(f"{path}: {error}") from error
    return found


def check(definitions: Iterable[Definition]) -> dict[str, Definition]:
    """Definitions by name; DefinitionError when they contradict each other or depend in a circle.

    No two have one name, endpoint or exported setting.
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
    """What two components must not both have; the error names both."""
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
    """Who has an identity depends on the agent that makes certificates."""
    if not found.identity or found.name == CERTIFICATES:
        return found
    return found.model_copy(update={"depends_on": {CERTIFICATES: "ready", **found.depends_on}})


def closure(definitions: Mapping[str, Definition], targets: Iterable[str]) -> list[str]:
    """`targets` and everything they depend on, each after its dependencies."""
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
