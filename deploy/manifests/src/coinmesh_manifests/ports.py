"""The fixed ports of a manifest: declared ones, else ones derived from its name."""

from collections.abc import Iterable, Mapping
from zlib import crc32

from coinmesh_manifests.manifest import Kind, Manifest

#: Listener → first number of the block for ports derived from names. No component file has a port
#: there.
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
    """Return a number for each listener of the kind, overridden and extended by the manifest."""
    return numbers(manifest.kind, _offset(manifest.name)) | dict(manifest.run.ports)


def settled(name: str, kind: Kind, others: Iterable[Manifest]) -> dict[str, int]:
    """Return the ports a new manifest must declare to avoid conflicts; empty if none."""
    taken = {number for other in others for number in of(other).values()}
    first = _offset(name)
    for step in range(BLOCK):
        found = numbers(kind, (first + step) % BLOCK)
        if taken.isdisjoint(found.values()):
            return found if step else {}
    raise ValueError("no port is left")


def numbers(kind: Kind, offset: int) -> dict[str, int]:
    """Return the numbers at one offset in the blocks."""
    return {listener: BLOCKS[listener] + offset for listener in LISTENERS[kind]}


def _offset(name: str) -> int:
    return crc32(name.encode()) % BLOCK
