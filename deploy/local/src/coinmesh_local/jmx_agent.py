"""Gives the JMX agent's configuration the password that Prometheus must know.

Version 1.0.1 serves plain HTTP or TLS without client certificates; it listens on loopback only.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from coinmesh_local.paths import write_atomically
from meshkit import logs

BASIC = "\nhttpServer:\n  authentication:\n    basic: {{username: prometheus, password: {}}}\n"


def add_password(configuration: Path, password: Path) -> None:
    """Add the password in the file `password` to `configuration`; the first one makes it.

    It is the same for all agents until the mesh is taken down, which removes the file.
    """
    if not password.exists():
        # Several JVMs may be the first: a link is made by one of them, and never half written.
        fresh = password.with_suffix(f".{os.getpid()}")
        write_atomically(fresh, secrets.token_urlsafe(24), 0o600)
        with suppress(FileExistsError):
            password.hardlink_to(fresh)
        fresh.unlink()
    text = configuration.read_text() + BASIC.format(password.read_text())
    write_atomically(configuration, text, 0o600)


if __name__ == "__main__":
    logs.configure_command()
    add_password(Path(sys.argv[1]), Path(sys.argv[2]))
