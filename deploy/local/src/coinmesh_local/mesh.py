"""The mesh as data: instances, settings and endpoints from definitions, options and home."""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from coinmesh_access import kafka_principals
from coinmesh_access import table as access
from coinmesh_access.digests import digests
from coinmesh_local import definition as defs
from coinmesh_local import provision
from coinmesh_local.definition import Definition, Probe, Profile, fill
from coinmesh_local.kinds import declared
from coinmesh_local.paths import BIN, CHECKOUT, DECLARED, LOCAL, Home
from coinmesh_local.ports import HOST, PortTable
from meshkit import logs

PREFIX = "COINMESH_"
#: Variables passed to every process from the caller's environment; definitions state the rest.
BASE_ENVIRONMENT = ("HOME", "USER", "TMPDIR", "XDG_CACHE_HOME")
#: Identity of commands, probes and tests, with its certificate and credentials.
DEPLOY = "deploy"
CAPTURE = "binance/spot_btcusdt_20240808.gz"


class OptionError(Exception):
    """Raised when the options contradict the data directory or each other."""


@dataclass(frozen=True)
class Options:
    """Options of `coinmesh up`; recorded in the home for later commands."""

    ha: bool = False
    gateways: int = 1
    source: str = "sim"
    profile: Profile = "default"
    ports: str = "fixed"

    def __post_init__(self) -> None:
        if self.source not in ("sim", "live"):
            raise OptionError(f"source is sim or live, not {self.source!r}")
        if self.profile not in get_args(Profile):
            raise OptionError(f"profile is default or full, not {self.profile!r}")
        if self.ports not in ("fixed", "free"):
            raise OptionError(f"COINMESH_PORTS is fixed or free, not {self.ports!r}")
        if not 1 <= self.gateways <= 8:
            raise OptionError(f"gateways is a number from 1 to 8, not {self.gateways}")

    def includes(self, found: Definition) -> bool:
        """Return whether the component exists under these options."""
        context = self.context()
        return (found.profile == "default" or self.profile == "full") and all(
            context[f"option.{key}"] == value for key, value in found.when.items()
        )

    def context(self) -> dict[str, str]:
        """Return the placeholders `${option.…}`; replication depends on the broker count."""
        return {
            "option.brokers": "3" if self.ha else "1",
            "option.min_isr": "2" if self.ha else "1",
            "option.gateways": str(self.gateways),
            "option.source": self.source,
            "option.profile": self.profile,
        }


@dataclass(frozen=True)
class Instance:
    """One process to run, with every placeholder filled in."""

    name: str
    component: str
    kind: str
    command: tuple[str, ...]
    environment: dict[str, str]
    prepare: tuple[tuple[str, ...], ...]
    files: dict[str, str]
    ports: dict[str, int]
    probe: Probe
    timeout: float
    stop_signal: str
    grace: float
    memory: int
    data: Path
    run: Path
    log: Path

    @property
    def digest(self) -> str:
        """Return a digest that differs when a running process no longer matches its definition."""
        what = [self.command, self.environment, self.prepare, self.files]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Mesh:
    """Definitions and options of one home. Cheap to build; starts nothing."""

    home: Home
    options: Options = field(default_factory=Options)
    environment: dict[str, str] = field(default_factory=dict)
    components: tuple[Path, ...] = DECLARED

    def __post_init__(self) -> None:
        option = self.options.context()
        self.definitions: dict[str, Definition] = {
            name: found.with_addition() if self.options.profile == "full" else found
            for name, found in declared(self.components).items()
            if self.options.includes(found)
        }
        for name, found in self.definitions.items():
            kept = {n: c for n, c in found.depends_on.items() if n in self.definitions}
            self.definitions[name] = found.model_copy(update={"depends_on": kept})
        self.replicas = {
            name: int(fill(found.replicas, option, name))
            for name, found in self.definitions.items()
        }
        table = PortTable(self.home, self.options.ports == "free")
        self.ports = table.assign(self.definitions, self.replicas)
        self._shared = self._shared_context()
        self._shared["metrics.targets"] = json.dumps(self.metrics_targets())

    # -- recorded state -------------------------------------------------------------------------

    @classmethod
    def recorded(cls, home: Home) -> "Mesh":
        """Return the mesh recorded by the last `save` in this home, else the default one."""
        state: dict[str, Any] = home.read_json("mesh.json", {})
        return cls(
            home,
            Options(**state.get("options", {})),
            state.get("environment", {}),
            tuple(Path(path) for path in state.get("components", DECLARED)),
        )

    def save(self) -> None:
        """Record the options for the supervisor and for later commands.

        Raises:
            OptionError: The options don't match the data, or a mesh without TLS wrote the data.
        """
        recorded = self.home.read_json("mesh.json", {})
        before = recorded.get("options", {})
        has_data = self.home.data.is_dir() and any(self.home.data.glob("kafka*"))
        if has_data and before and bool(before.get("ha")) != self.options.ha:
            raise OptionError(
                f"the data in {self.home.data} was made with HA={int(before['ha'])}: "
                "keep that, or drop the data with `coinmesh reset` first"
            )
        if has_data and recorded and not recorded.get("closed"):
            raise OptionError(
                f"the data in {self.home.data} was written by a mesh without TLS, which anybody on "
                "this machine could alter: drop it with `coinmesh reset` (`make reset`)"
            )
        self.home.create()
        state = {
            "closed": True,
            "options": asdict(self.options),
            "environment": self.environment,
            "components": [str(path) for path in self.components],
        }
        self.home.write_json("mesh.json", state)

    # -- components and instances -------------------------------------------------------------

    def closure(self, targets: Iterable[str] = ()) -> list[str]:
        """Return `targets` (all components when none) and their dependencies, in start order."""
        return defs.closure(self.definitions, list(targets) or list(self.definitions))

    def later(self) -> list[str]:
        """Return the names of components that start after everything else is up."""
        return [name for name in self.closure() if self.definitions[name].later]

    def at_once(self, targets: Iterable[str] = ()) -> list[str]:
        """Return the components that `up` waits for: `targets`, or all but later ones, in order."""
        named = list(targets)
        return self.closure(named or self.started())

    def started(self) -> list[str]:
        """Return the names of components that `up` starts automatically and waits for."""
        return [n for n, one in self.definitions.items() if not one.later and not one.on_demand]

    def instances(self, component: str) -> list[Instance]:
        """Return the processes of one component."""
        return [self._instance(component, i) for i in range(1, self.replicas[component] + 1)]

    def instance_names(self, component: str) -> list[str]:
        """Return `kafka`, or `kafka-1`, `kafka-2`, … when it has several replicas."""
        count = self.replicas[component]
        return [component] if count == 1 else [f"{component}-{i}" for i in range(1, count + 1)]

    def named(self, names: Iterable[str]) -> list[str]:
        """Return the instances that `names` denote: a component denotes all its replicas."""
        all_names = {name: self.instance_names(name) for name in self.definitions}
        known = {name: [name] for names in all_names.values() for name in names} | all_names
        chosen = list(names)
        for name in chosen:
            if name not in known:
                raise defs.DefinitionError(
                    f"unknown component {name!r}; there are: {', '.join(sorted(known))}"
                )
        return [instance for name in chosen for instance in known[name]]

    def settings(
        self, components: Iterable[str] | None = None, client: str = DEPLOY
    ) -> dict[str, str]:
        """Return the COINMESH_ variables for an identity, `client`, to connect to `components`.

        `None` stands for all components.
        """
        result: dict[str, str] = {}
        if client:
            result[f"{PREFIX}TLS_DIR"] = str(self.home.tls / client)
        for name in self.definitions if components is None else components:
            context = self.context(name, 1) | {"client": client}
            for key, text in self.definitions[name].exports.items():
                result[PREFIX + key] = fill(text, context, f"{name}: exports.{key}")
        return result

    def endpoints(self) -> dict[str, dict[str, str | None]]:
        """Return every address for people: name → {"url": …, "ca": …}."""
        result: dict[str, dict[str, str | None]] = {}
        for name, found in self.definitions.items():
            context = self.context(name, 1)
            for key, endpoint in found.endpoints.items():
                where = f"{name}: endpoints.{key}"
                ca = fill(endpoint.ca, context, where) if endpoint.ca else None
                result[key] = {"url": fill(endpoint.url, context, where), "ca": ca}
        return result

    def metrics_targets(self) -> list[dict[str, str]]:
        """Return a scrape target (job, instance, URL and password file) for each replica."""
        targets: list[dict[str, str]] = []
        for name, found in self.definitions.items():
            if found.metrics is None:
                continue
            for index, instance in enumerate(self.instance_names(name), 1):
                context = self.context(name, index)
                where = f"{name}: metrics"
                target = {"job": name, "instance": instance}
                target["url"] = fill(found.metrics.url, context, where)
                if found.metrics.password_file:
                    target["password_file"] = fill(found.metrics.password_file, context, where)
                targets.append(target)
        return targets

    # -- placeholders ---------------------------------------------------------------------------

    def context(self, component: str, index: int) -> dict[str, str]:
        """Return all placeholders of a replica; its own override those shared by the mesh."""
        own = self.instance_names(component)[index - 1]
        users = {d.identity for d in self.definitions.values() if component in d.depends_on}
        context = self._shared | {
            "clients": ",".join(sorted({*users, DEPLOY})),
            "instance": own,
            "index": str(index),
            "data": str(self.home.data / own),
            "tls": str(self.home.tls / (self.definitions[component].identity or DEPLOY)),
            "run": str(self.home.run / own),
        }
        for port, numbers in self.ports[component].items():
            context[f"port.{port}"] = str(numbers[index - 1])
            context[f"listen.{port}"] = f"{HOST}:{numbers[index - 1]}"
            context[f"all.{port}"] = ",".join(f"{HOST}:{number}" for number in numbers)
            context[f"numbered.{port}"] = ",".join(
                f"{i}@{HOST}:{number}" for i, number in enumerate(numbers, 1)
            )
        return context

    def _shared_context(self) -> dict[str, str]:
        table = access.load()
        context = {
            "host": HOST,
            "home": str(self.home.root),
            "data_directory": str(self.home.data),
            "secrets": str(self.home.secrets),
            "tls_root": str(self.home.tls),
            "ca": str(self.home.ca),
            "checkout": str(CHECKOUT),
            "bin": str(BIN),
            "python": str(BIN / "python"),
            "default.capture": self._default_capture(),
            "access.kafka_super_users": kafka_principals.super_users(table),
            "access.kafka_principal_rule": kafka_principals.PRINCIPAL_RULE,
            **{f"granted.{part}": digest for part, digest in digests(table).items()},
            **self.options.context(),
            **provision.locations(),
        }
        for name, ports in self.ports.items():
            for port, numbers in ports.items():
                context[f"{name}.{port}"] = ",".join(f"{HOST}:{number}" for number in numbers)
                context[f"{name}.{port}_port"] = str(numbers[0])
        routed = [name for name, found in self.definitions.items() if found.routed]
        context["routed"] = " ".join(f"{name}={context[f'{name}.grpc']}" for name in routed)
        context["web"] = " ".join(
            f"{name}={context[f'{name}.https']}"
            for name, found in self.definitions.items()
            if found.served_at
        )
        context["collectors"] = ",".join(
            f"{found.collects}={context[f'{name}.grpc'].partition(',')[0]}"
            for name, found in self.definitions.items()
            if found.collects
        )
        return context

    def _default_capture(self) -> str:
        recorded = self.environment.get("COINMESH_RECORDED") or CHECKOUT / "../shared/recorded"
        path = Path(recorded, CAPTURE).resolve()
        return str(path) if path.is_file() else ""

    def _instance(self, component: str, index: int) -> Instance:
        found = self.definitions[component]
        context = self.context(component, index)
        name = context["instance"]

        def words(command: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(fill(word, context, f"{component}: command") for word in command)

        templates = {
            target: (LOCAL / "config" / source).read_text()
            for target, source in found.files.items()
        }
        return Instance(
            name=name,
            component=component,
            kind=found.kind,
            command=words(found.command),
            environment=self._environment(found, context),
            prepare=tuple(words(command) for command in found.prepare),
            files={n: fill(text, context, found.files[n]) for n, text in templates.items()},
            ports={port: numbers[index - 1] for port, numbers in self.ports[component].items()},
            probe=Probe(
                kind=found.ready.kind,
                target=fill(found.ready.target, context, f"{component}: ready.target"),
                expect=fill(found.ready.expect, context, f"{component}: ready.expect"),
                ca=fill(found.ready.ca, context, f"{component}: ready.ca"),
                tls=str(self.home.tls / DEPLOY) if found.identity else "",
            ),
            timeout=found.timeout,
            stop_signal=found.stop_signal,
            grace=found.grace,
            memory=found.memory,
            data=self.home.data / name,
            run=self.home.run / name,
            log=self.home.log(name),
        )

    def _environment(self, found: Definition, context: Mapping[str, str]) -> dict[str, str]:
        """Return the base, settings of all dependencies, its own variables, then inherited ones."""
        base = {key: os.environ[key] for key in BASE_ENVIRONMENT if key in os.environ}
        base |= {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
        # gRPC's core would log in its own format; its relevant failures are also raised as errors.
        base["GRPC_VERBOSITY"] = "NONE"
        # Preparations and steps log under this name; services also label metrics and traces with
        # it.
        base[logs.SERVICE_VARIABLE] = found.name
        base |= self.settings(self.closure([found.name]), found.identity)
        for key, text in found.environment.items():
            base[key] = fill(text, context, f"{found.name}: environment.{key}")
        for pattern in found.inherit:
            base |= {k: v for k, v in self.environment.items() if fnmatch.fnmatch(k, pattern)}
        return {key: value for key, value in base.items() if value}


def caller_environment() -> dict[str, str]:
    """Return the caller's COINMESH_ settings, with absolute paths, for `inherit`."""
    chosen = {k: v for k, v in os.environ.items() if k.startswith(PREFIX) and v}
    for key in ("COINMESH_SIM_CAPTURE", "COINMESH_RECORDED"):
        if key in chosen:
            chosen[key] = str(Path(chosen[key]).absolute())
    return chosen
