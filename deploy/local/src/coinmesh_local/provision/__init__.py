"""Brings what the mesh runs on: JDKs, Debian packages, and pinned downloads in the user's cache."""

from collections.abc import Callable, Iterable

from coinmesh_local.provision import java, maven, system
from coinmesh_local.provision.errors import ProvisionError

__all__ = ["ProvisionError", "ensure", "locations"]

Progress = Callable[[str], None]


def locations() -> dict[str, str]:
    """The placeholders `${cache.…}` and `${jdk…}`; what is missing points nowhere until ensured."""
    found = {f"cache.{name}": str(maven.directory(name)) for name in maven.PACKAGES}
    for name, need in java.NEEDS.items():
        found[name] = str(java.find(need) or f"/{name}-is-missing")
    return found


def ensure(names: Iterable[str], progress: Progress) -> None:
    """Bring everything in `names`; raise ProvisionError with the way out when one can't be had."""
    wanted = dict.fromkeys(names)
    for name in wanted:
        if name in java.NEEDS:
            java.ensure(name, progress)
        elif name in system.PACKAGES:
            system.ensure(name, progress)
        elif name not in maven.PACKAGES:
            raise ProvisionError(f"nothing is known about how to provide {name!r}")
    for name in wanted:
        if name in maven.PACKAGES:
            maven.ensure(name, progress)
