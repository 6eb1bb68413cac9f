"""Prepare the S3 store's data directory."""

import secrets
import shutil
import sys
from pathlib import Path

from meshkit import logs
from meshkit.files import write_atomically


def forget_election(data: Path) -> None:
    """Remove the master's Raft log, which with a single master only delays each start by 15 s.

    Volume ids are restored by the volume server's first heartbeat.
    """
    for directory in data.glob("m[0-9]*"):
        shutil.rmtree(directory)


def sign_inside(configuration: Path) -> None:
    """Append new keys for signing the store's internal requests; its parts are one process."""
    text = configuration.read_text()
    for name in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read"):
        text += f'\n[{name}]\nkey = "{secrets.token_urlsafe(32)}"\n'
    write_atomically(configuration, text, 0o600)


if __name__ == "__main__":
    logs.configure_command()
    forget_election(Path(sys.argv[1]))
    sign_inside(Path(sys.argv[2]))
