"""Provision the mesh's dependencies: JDKs, Debian packages, and pinned downloads in the cache."""

from collections.abc import Callable, Iterable

from coinmesh_local.paths import cache_directory
from coinmesh_local.provision import golang, java, maven, system
from coinmesh_local.provision.errors import ProvisionError

__all__ = ["ProvisionError", "ensure", "locations"]

Progress = Callable[[str], None]


def locations() -> dict[str, str]:
    """Return the placeholders `${cache.…}` and `${jdk…}`; a missing JDK's path doesn't exist."""
    found = {f"cache.{name}": str(maven.directory(name)) for name in maven.PACKAGES}
    found |= {f"cache.{name}": str(golang.directory(name)) for name in golang.PACKAGES}
    for name, need in java.NEEDS.items():
        found[name] = str(java.find(need) or f"/{name}-is-missing")
    return found


def ensure(names: Iterable[str], progress: Progress) -> None:
    """Provide everything in `names`.

    Raises:
        ProvisionError: A dependency can't be provided; the message has the remedy.
    """
    wanted = dict.fromkeys(names)
    try:
        for name in wanted:
            if name in java.NEEDS:
                java.ensure(name, progress)
            elif name in system.PACKAGES:
                system.ensure(name, progress)
            elif name not in (*maven.PACKAGES, *golang.PACKAGES):
                raise ProvisionError(f"nothing is known about how to provide {name!r}")
        for name in wanted:
            if name in maven.PACKAGES:
                maven.ensure(name, progress)
            elif name in golang.PACKAGES:
                golang.ensure(name, progress)
    except OSError as error:
        raise ProvisionError(
            f"can't keep downloads in {cache_directory()} ({error.strerror}: {error.filename}): "
            "free or allow that place, or set XDG_CACHE_HOME to a directory that can be written"
        ) from error
