"""Keeps log files from filling the disk."""

import os
from pathlib import Path

#: Bytes from which on a log is rotated.
LIMIT = 64 << 20
_CHUNK = 1 << 20


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


def _private(path: str, flags: int) -> int:
    """An audit log's copy is never open to others, not even at first."""
    return os.open(path, flags, 0o600)
