"""The mesh as data: definitions + options + home → instances, settings and endpoints."""

import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coinmesh_local import definition as defs
from coinmesh_local import provision
from coinmesh_local.definition import Definition, Probe, fill
from coinmesh_local.paths import BIN, CHECKOUT, COMPONENTS, LOCAL, Home
from coinmesh_local.ports import HOST, PortTable

PREFIX = "COINMESH_"
#: What every process gets from the caller's environment; all else is stated in its definition.
BASE_ENVIRONMENT = ("HOME", "USER", "TMPDIR", "XDG_CACHE_HOME")
CAPTURE = "binance/spot_btcusdt_20240808.gz"


class OptionError(Exception):
    """The options contradict the data directory or each other."""


@dataclass(frozen=True)
class Options:
    """What `coinmesh up` can be told; recorded in the home, so that later commands know it."""

    ha: bool = False
    gateways: int = 1
    source: str = "sim"
    ports: str = "fixed"

    def __post_init__(self) -> None:
        if self.source not in ("sim", "live"):
            raise OptionError(f"source is sim or live, not {self.source!r}")
        if self.ports not in ("fixed", "free"):
            raise OptionError(f"COINMESH_PORTS is fixed or free, not {self.ports!r}")
        if not 1 <= self.gateways <= 8:
            raise OptionError(f"gateways is a number from 1 to 8, not {self.gateways}")

    def context(self) -> dict[str, str]:
        """The placeholders `${option.…}`; the broker count decides every replication factor."""
        return {
            "option.brokers": "3" if self.ha else "1",
            "option.min_isr": "2" if self.ha else "1",
            "option.gateways": str(self.gateways),
            "option.source": self.source,
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
        """Changes when a running process no longer matches its definition."""
        what = [self.command, self.environment, self.prepare, self.files]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Mesh:
    """Definitions and options of one home. Cheap to build; starts nothing."""

    home: Home
    options: Options = field(default_factory=Options)
    environment: dict[str, str] = field(default_factory=dict)
    components: tuple[Path, ...] = (COMPONENTS,)

    def __post_init__(self) -> None:
        option = self.options.context()
        loaded = defs.load(self.components)
        self.definitions: dict[str, Definition] = {
            name: found
            for name, found in loaded.items()
            if all(option[f"option.{key}"] == value for key, value in found.when.items())
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

    # -- recorded state -------------------------------------------------------------------------

    @classmethod
    def recorded(cls, home: Home) -> "Mesh":
        """The mesh as the last `save` in this home left it, else the default one."""
        state: dict[str, Any] = home.read_json("mesh.json", {})
        return cls(
            home,
            Options(**state.get("options", {})),
            state.get("environment", {}),
            tuple(Path(path) for path in state.get("components", [COMPONENTS])),
        )

    def save(self) -> None:
        """Record options for the supervisor and later commands, and the endpoints for people."""
        before = self.home.read_json("mesh.json", {}).get("options", {})
        has_data = self.home.data.is_dir() and any(self.home.data.glob("kafka*"))
        if has_data and before and bool(before.get("ha")) != self.options.ha:
            raise OptionError(
                f"the data in {self.home.data} was made with HA={int(before['ha'])}: "
                "keep that, or drop the data with `coinmesh reset` first"
            )
        self.home.create()
        state = {
            "options": asdict(self.options),
            "environment": self.environment,
            "components": [str(path) for path in self.components],
        }
        self.home.write_json("mesh.json", state)

    # -- what runs ------------------------------------------------------------------------------

    def closure(self, targets: Iterable[str] = ()) -> list[str]:
        """Names of `targets` (all components when none) with what they depend on, in order."""
        return defs.closure(self.definitions, list(targets) or list(self.definitions))

    def instances(self, component: str) -> list[Instance]:
        """The processes of one component."""
        return [self._instance(component, i) for i in range(1, self.replicas[component] + 1)]

    def instance_names(self, component: str) -> list[str]:
        """`kafka`, or `kafka-1`, `kafka-2`, … when it has several replicas."""
        count = self.replicas[component]
        return [component] if count == 1 else [f"{component}-{i}" for i in range(1, count + 1)]

    def named(self, names: Iterable[str]) -> list[str]:
        """The instances that `names` mean: a component means all its replicas."""
        all_names = {name: self.instance_names(name) for name in self.definitions}
        known = {name: [name] for names in all_names.values() for name in names} | all_names
        chosen = list(names)
        for name in chosen:
            if name not in known:
                raise defs.DefinitionError(
                    f"unknown component {name!r}; there are: {', '.join(sorted(known))}"
                )
        return [instance for name in chosen for instance in known[name]]

    def settings(self, components: Iterable[str] | None = None) -> dict[str, str]:
        """The COINMESH_ variables by which clients reach `components` (all, when None)."""
        result: dict[str, str] = {}
        for name in self.definitions if components is None else components:
            context = self.context(name, 1)
            for key, text in self.definitions[name].exports.items():
                result[PREFIX + key] = fill(text, context, f"{name}: exports.{key}")
        return result

    def endpoints(self) -> dict[str, dict[str, str | None]]:
        """Every address that people use: name → {"url": …, "ca": …}."""
        result: dict[str, dict[str, str | None]] = {}
        for name, found in self.definitions.items():
            context = self.context(name, 1)
            for key, endpoint in found.endpoints.items():
                where = f"{name}: endpoints.{key}"
                ca = fill(endpoint.ca, context, where) if endpoint.ca else None
                result[key] = {"url": fill(endpoint.url, context, where), "ca": ca}
        return result

    # -- placeholders ---------------------------------------------------------------------------

    def context(self, component: str, index: int) -> dict[str, str]:
        """All placeholders of a replica: own names over those that the whole mesh shares."""
        own = self.instance_names(component)[index - 1]
        context = self._shared | {
            "instance": own,
            "index": str(index),
            "data": str(self.home.data / own),
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
        context = {
            "host": HOST,
            "home": str(self.home.root),
            "data_directory": str(self.home.data),
            "secrets": str(self.home.secrets),
            "checkout": str(CHECKOUT),
            "bin": str(BIN),
            "python": str(BIN / "python"),
            "default.capture": self._default_capture(),
            **self.options.context(),
            **provision.locations(),
        }
        for name, ports in self.ports.items():
            for port, numbers in ports.items():
                context[f"{name}.{port}"] = ",".join(f"{HOST}:{number}" for number in numbers)
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
        """Base, settings of all it depends on, its own lines, then what it inherits."""
        base = {key: os.environ[key] for key in BASE_ENVIRONMENT if key in os.environ}
        base |= {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}
        base |= self.settings(self.closure([found.name]))
        for key, text in found.environment.items():
            base[key] = fill(text, context, f"{found.name}: environment.{key}")
        for pattern in found.inherit:
            base |= {k: v for k, v in self.environment.items() if fnmatch.fnmatch(k, pattern)}
        return {key: value for key, value in base.items() if value}


def caller_environment() -> dict[str, str]:
    """The caller's COINMESH_ settings, paths made absolute, as `inherit` hands them on."""
    chosen = {k: v for k, v in os.environ.items() if k.startswith(PREFIX) and v}
    for key in ("COINMESH_SIM_CAPTURE", "COINMESH_RECORDED"):
        if key in chosen:
            chosen[key] = str(Path(chosen[key]).absolute())
    return chosen
