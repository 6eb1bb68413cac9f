"""Passwords between two components, new at each start of the mesh: one asks, the other knows it.

`python -m coinmesh_local.start_password PASSWORD CONFIGURATION` puts the password that the file
PASSWORD holds in the place of `@PASSWORD@` in a component's configuration.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from meshkit import logs
from meshkit.files import write_atomically

PLACE = "@PASSWORD@"


def fill(configuration: Path, password: Path) -> None:
    """Put the password in the file `password` into `configuration`; the first one makes it.

    It is the same until the mesh is taken down, which removes the file.
    """
    if not password.exists():
        password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several processes may be the first: a link is made by one, and never half written.
        fresh = password.with_suffix(f".{os.getpid()}")
        write_atomically(fresh, secrets.token_urlsafe(24), 0o600)
        with suppress(FileExistsError):
            password.hardlink_to(fresh)
        fresh.unlink()
    text = configuration.read_text().replace(PLACE, password.read_text())
    write_atomically(configuration, text, 0o600)


if __name__ == "__main__":
    logs.configure_command()
    fill(Path(sys.argv[2]), Path(sys.argv[1]))
