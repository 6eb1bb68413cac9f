"""Passwords shared by two components, a client and a server, renewed at each start of the mesh.

`python -m coinmesh_local.start_password PASSWORD CONFIGURATION` replaces `@PASSWORD@` in a
component's configuration with the content of the file PASSWORD.
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
    """Insert the password in the file `password` into `configuration`; create it on first use.

    It is unchanged until the mesh is taken down, which removes the file.
    """
    if not password.exists():
        password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Several processes may race: a hard link is created by one of them, and never half written.
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
