"""The user's cache: directories keyed by name, version and recipe, filled atomically."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from coinmesh_local.paths import cache_directory


@contextmanager
def locked(name: str) -> Generator[None]:
    """Hold the cache's lock `name` against other processes; the kernel releases it on any exit."""
    directory = cache_directory() / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fill(target: Path, build: Callable[[Path], None]) -> None:
    """Create `target` by `build(temporary)` and one rename, unless it exists already.

    An existing directory is complete. Remains of an interrupted run are removed first.
    """
    if target.is_dir():
        return
    with locked(target.name):
        if target.is_dir():
            return
        workshop = target.parent / "tmp"
        workshop.mkdir(parents=True, exist_ok=True)
        for left in workshop.glob(f"{target.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=workshop, prefix=f"{target.name}."))
        try:
            build(temporary)
            temporary.chmod(0o755)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
