"""Rotate log files to bound disk use; records of Vault's audit logs are never removed."""

import os
from pathlib import Path

#: Size in bytes above which a log is rotated.
LIMIT = 64 << 20
_CHUNK = 1 << 20
#: Name prefix of Vault's audit logs.
AUDIT = "openbao-audit-"


def rotate(log: Path, limit: int) -> bool:
    """Move the content of `log` to `.log.1` when it exceeds `limit` bytes; return whether it did.

    The log's writer has the file open for appending and continues at the start of the emptied file.
    Lines written between the last read and the truncation, which follow directly on each other, are
    lost.

    Raises:
        OSError: The log is gone, or the disk is full; the log is unchanged.
    """
    if log.stat().st_size <= limit:
        return False
    with (
        open(log, "r+b", buffering=0) as source,
        open(log.with_suffix(".log.1"), "wb", opener=_private) as copy,
    ):
        os.fchmod(copy.fileno(), os.fstat(source.fileno()).st_mode & 0o777)
        while chunk := source.read(_CHUNK):
            copy.write(chunk)
            copy.flush()  # not later: nothing may run between the last read and the truncation
        source.truncate(0)
    return True


def set_aside(log: Path, limit: int) -> bool:
    """Rename an audit log of more than `limit` bytes to the next of `.log.1`, `.log.2`, …

    Nothing is copied, so no record is lost; the log's writer must then reopen the file.

    Returns:
        Whether the log was renamed.

    Raises:
        OSError: The log is gone, or the directory is not writable.
    """
    if log.stat().st_size <= limit:
        return False
    log.rename(log.with_suffix(f".log.{max(map(number, copies(log)), default=0) + 1}"))
    return True


def copies(log: Path) -> list[Path]:
    """Return the rotated copies of a log, oldest first."""
    numbered = (path for path in log.parent.glob(f"{log.name}.*") if number(path))
    return sorted(numbered, key=number)


def number(copy: Path) -> int:
    """Return the number of a rotated log; 0 when the file is not one."""
    suffix = copy.suffix[1:]
    return int(suffix) if suffix.isdecimal() else 0


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner can read from the moment of its creation."""
    return os.open(path, flags, 0o600)
