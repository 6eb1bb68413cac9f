"""Keeps log files from filling the disk; of Vault's audit logs nothing is ever removed."""

import os
from pathlib import Path

#: Bytes from which on a log is rotated.
LIMIT = 64 << 20
_CHUNK = 1 << 20
#: The names of Vault's audit logs begin so.
AUDIT = "openbao-audit-"


def rotate(log: Path, limit: int) -> bool:
    """Move what `log` holds to `.log.1` when that is more than `limit` bytes; whether it was.

    Whoever writes the log has it open for appending, and goes on at the beginning of the emptied
    file. What is written between the last read and the emptying, which follow one another, is lost.

    Raises:
        OSError: The log is gone, or the disk is full; it is left as it was.
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
            copy.flush()  # not later: nothing is to come between the last read and the emptying
        source.truncate(0)
    return True


def set_aside(log: Path, limit: int) -> bool:
    """Rename an audit log of more than `limit` bytes to the next of `.log.1`, `.log.2`, …

    Nothing is copied, so no record is lost; its writer must then reopen the file.

    Returns:
        Whether it was renamed.

    Raises:
        OSError: The log is gone, or the directory can't be written.
    """
    if log.stat().st_size <= limit:
        return False
    log.rename(log.with_suffix(f".log.{max(map(number, copies(log)), default=0) + 1}"))
    return True


def copies(log: Path) -> list[Path]:
    """What was rotated of a log, oldest first."""
    numbered = (path for path in log.parent.glob(f"{log.name}.*") if number(path))
    return sorted(numbered, key=number)


def number(copy: Path) -> int:
    """The number of a rotated log; 0 when it is none."""
    suffix = copy.suffix[1:]
    return int(suffix) if suffix.isdecimal() else 0


def _private(path: str, flags: int) -> int:
    """An audit log's copy is never open to others, not even at first."""
    return os.open(path, flags, 0o600)
