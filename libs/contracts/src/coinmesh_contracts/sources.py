"""The contracts as data: the event contracts' text and the compiled descriptor set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

_IMPORT: Final = re.compile(r'^import "(coinmesh/[^"]+)";', re.MULTILINE)


def proto_text(path: str) -> str:
    """Return the text of a contract by its import path, e.g. "coinmesh/events/v1/trade.proto"."""
    return files("coinmesh_contracts").joinpath("proto", *PurePosixPath(path).parts).read_text()


def imports(text: str) -> list[str]:
    """Return the import paths of coinmesh contracts in a contract's text, in its order."""
    return _IMPORT.findall(text)


def with_imports(path: str) -> Iterator[str]:
    """Yield the import paths of a contract and all its imports, dependencies first, each once."""
    seen: set[str] = set()

    def visit(current: str) -> Iterator[str]:
        if current in seen:
            return
        seen.add(current)
        for dependency in imports(proto_text(current)):
            yield from visit(dependency)
        yield current

    yield from visit(path)


def descriptor_set() -> bytes:
    """Return the serialized FileDescriptorSet of every contract, with imports and error details."""
    return files("coinmesh_contracts").joinpath("descriptors.binpb").read_bytes()
