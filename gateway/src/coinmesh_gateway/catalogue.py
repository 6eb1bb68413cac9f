"""The service catalogue: which services stand behind Envoy (catalogue.toml says what is what)."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class CatalogueError(ValueError):
    """The catalogue contradicts itself, the contracts or what the command was told."""


class Service(BaseModel):
    """One service of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grpc: tuple[str, ...] = Field(min_length=1)
    bind: dict[str, str] = Field(default_factory=dict)
    front: bool = False
    timeout: float = Field(15, gt=0)
    idle: float = Field(3600, gt=0)


Catalogue = Mapping[str, Service]

_CATALOGUE = TypeAdapter(dict[str, Service])


def parse(text: str) -> dict[str, Service]:
    """Reads a catalogue's TOML; CatalogueError says what is wrong with it."""
    try:
        return _CATALOGUE.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"the catalogue is not TOML: {error}") from error
    except ValidationError as error:
        lines = [
            f"the catalogue's {'.'.join(map(str, detail['loc']))}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        ]
        raise CatalogueError("\n".join(lines)) from error


def shipped() -> dict[str, Service]:
    """The mesh's own catalogue."""
    return parse(files("coinmesh_gateway").joinpath("catalogue.toml").read_text())


def servers(catalogue: Catalogue) -> dict[str, list[str]]:
    """Which services of the catalogue serve each gRPC service."""
    found: dict[str, list[str]] = {}
    for name, service in catalogue.items():
        for grpc in service.grpc:
            found.setdefault(grpc, []).append(name)
    return found
