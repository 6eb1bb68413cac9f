"""The fixed ports of a manifest: its own, else ones that follow from its name."""

from collections.abc import Iterable, Mapping
from zlib import crc32

from coinmesh_manifests.manifest import Kind, Manifest

#: Listener → first number of the block from which a manifest without ports gets its own. No
#: component file has a port there.
BLOCKS = {"grpc": 10_000, "metrics": 11_000, "public": 12_000, "admin": 13_000, "https": 14_000}
BLOCK = 1_000
LISTENERS: Mapping[Kind, tuple[str, ...]] = {
    "service": ("grpc", "metrics"),
    "collector": ("grpc", "metrics"),
    "stream": ("metrics",),
    "job": (),
    "simulator": ("public", "admin"),
    "web": ("https",),
}


def of(manifest: Manifest) -> dict[str, int]:
    """A number for each listener of the kind, and those that the manifest states besides."""
    return numbers(manifest.kind, _offset(manifest.name)) | dict(manifest.run.ports)


def settled(name: str, kind: Kind, others: Iterable[Manifest]) -> dict[str, int]:
    """What a new manifest must state so that it shares no number; empty when its name will do."""
    taken = {number for other in others for number in of(other).values()}
    first = _offset(name)
    for step in range(BLOCK):
        found = numbers(kind, (first + step) % BLOCK)
        if taken.isdisjoint(found.values()):
            return found if step else {}
    raise ValueError("no port is left")


def numbers(kind: Kind, offset: int) -> dict[str, int]:
    """The numbers at one place of the blocks."""
    return {listener: BLOCKS[listener] + offset for listener in LISTENERS[kind]}


def _offset(name: str) -> int:
    return crc32(name.encode()) % BLOCK
