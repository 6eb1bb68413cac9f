"""Files that hold secrets: written atomically, readable by their owner only."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from meshkit.files import write_atomically as write

__all__ = ["alone_in", "private_directory", "sync_directory", "write"]


def private_directory(path: Path) -> Path:
    """Create `path` if necessary and restrict it to its owner."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


@contextmanager
def alone_in(directory: Path) -> Generator[None]:
    """Hold an exclusive lock on `directory` among processes that use this function."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power failure."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
