"""The access table: `access.toml` as typed data, validated when it is read."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from coinmesh_contracts import topics
from coinmesh_manifests.discovery import ManifestError, discover
from coinmesh_manifests.grants import Grants, Names, Part
from coinmesh_manifests.manifest import Manifest

#: deploy/access, the directory of the table, beside the code.
TABLE = Path(__file__).resolve().parents[2] / "access.toml"


class AccessError(Exception):
    """Raised when the table is wrong; the message names file, entry and correction."""


class Service(Grants):
    """One identity."""

    description: str = Field(min_length=1)
    listens: bool = True
    also_named: Names = ()


class AccessTable(Part):
    """The whole table."""

    trust_domain: str = Field(pattern=r"^[a-z0-9.-]+$")
    keyspace: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    bucket: str = Field(pattern=r"^[a-z0-9.-]{3,63}$")
    component_topics: Names = ()
    #: Root of the tree whose manifests add services, relative to the table's directory.
    manifests: str | None = None
    services: Mapping[str, Service]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {*topics.BY_NAME, *self.component_topics}
        for name, service in self.services.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"service {name!r}: a name is lower-case letters, digits and -")
            kafka = service.kafka
            for topic in (*kafka.read, *kafka.write, *kafka.configs):
                if topic not in known and not topic.endswith("*"):
                    raise ValueError(
                        f"{name}: there is no topic {topic!r}; see coinmesh_contracts.topics"
                    )
            if kafka.super and service.has_kafka_acls:
                raise ValueError(f"{name}: kafka.super needs no topics or groups")
            if unknown := sorted(set(service.http) - set(self.services)):
                raise ValueError(f"{name}: http.{unknown[0]}: there is no such service")
            if service.redis.keys and not service.redis.commands:
                raise ValueError(f"{name}: redis.keys needs redis.commands")
        return self

    def service(self, name: str) -> Service:
        """Return the service `name`; raise AccessError with the existing names if there is none."""
        try:
            return self.services[name]
        except KeyError:
            known = ", ".join(self.services)
            raise AccessError(f"{name!r} is not in the access table; there are: {known}") from None

    def spiffe_id(self, name: str) -> str:
        """Return the identity in the service's certificate."""
        return f"spiffe://{self.trust_domain}/svc/{name}"


def load(path: Path = TABLE) -> AccessTable:
    """Read the table; AccessError when it is unreadable or inconsistent."""
    try:
        told = tomllib.loads(path.read_text())
        if "manifests" in told:
            told["services"] = _with_manifests(path, told)
        return AccessTable.model_validate(told)
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, ManifestError) as error:
        raise AccessError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        ]
        raise AccessError("\n".join(lines)) from error


def _with_manifests(path: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table's services and those of the manifests; each is declared in one place."""
    services = dict(told.get("services", {}))
    for name, manifest in discover(path.parent / str(told["manifests"])).items():
        if name in services:
            raise AccessError(f"{path}: services.{name} is declared by {manifest.path} as well")
        services[name] = _declared(manifest)
        if manifest.kind == "web":
            # Users come through Envoy, below the server's name; the probe uses the deployer's
            # identity.
            _grant(services, "envoy", name, f"* /{name}(/.*)?")
            _grant(services, "deploy", name, "* /.*")
    return services


def _grant(services: dict[str, Any], caller: str, server: str, request: str) -> None:
    """Add a request to those that a service may send to an HTTP server."""
    one = dict(services.get(caller, {}))
    one["http"] = {**one.get("http", {}), server: [*one.get("http", {}).get(server, ()), request]}
    services[caller] = one


def _declared(manifest: Manifest) -> Service:
    granted = manifest.granted()
    return Service(
        description=manifest.description,
        listens=manifest.kind != "job",
        **{name: getattr(granted, name) for name in Grants.model_fields},
    )
