"""Register the deployer's certificate in a new Cassandra node before the node first serves.

A new node has only a user with a password, and the certificate authenticator accepts no passwords.
The node therefore runs once with the password authenticator, on its own addresses and behind the
same mutual TLS. Completion is recorded only after the node has written everything and exited; after
a kill -9 at any moment the procedure runs again and leaves existing roles unchanged.
"""

import argparse
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

from coinmesh_access import cassandra_session, table
from coinmesh_access.table import AccessError
from coinmesh_local.mesh import DEPLOY
from meshkit import logs
from meshkit.files import write_atomically

DONE = "adopted"
TIMEOUT, STOP_TIMEOUT, PAUSE = 240.0, 60.0, 0.5
_AUTHENTICATOR = re.compile(r"^authenticator:\n(?:[ ]+.*\n)+", re.MULTILINE)


class AdoptionError(Exception):
    """Raised when the node did not start, rejected the deployer or did not exit."""


def with_passwords(configuration: str) -> str:
    """Return the node's configuration with the password authenticator in place of its own."""
    text, count = _AUTHENTICATOR.subn("authenticator: PasswordAuthenticator\n", configuration)
    if count != 1:
        raise AdoptionError("the configuration names no authenticator in a block of its own")
    return text


def adopt(arguments: argparse.Namespace) -> None:
    """Start the node, register the deployer and stop the node."""
    configuration = Path(arguments.config)
    first = configuration.with_name("first-start.yaml")
    write_atomically(first, with_passwords(configuration.read_text()), 0o600)
    java, *words = arguments.command
    node = subprocess.Popen([java, f"-Dcassandra.config=file:{first}", *words])
    try:
        _let_in(node, arguments.contact_points, Path(arguments.tls_dir))
        node.terminate()
        node.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise AdoptionError(f"the node did not end within {STOP_TIMEOUT:.0f} s") from error
    finally:
        node.kill()
        node.wait()


def _let_in(node: "subprocess.Popen[bytes]", contact_points: str, tls_dir: Path) -> None:
    known = table.load()
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            cassandra_session.adopt(contact_points, tls_dir, known, DEPLOY)
            return
        except AccessError as error:
            if node.poll() is not None:
                raise AdoptionError(f"the node ended with status {node.returncode}") from error
            if time.monotonic() > deadline:
                raise AdoptionError(str(error)) from error
        time.sleep(PAUSE)


def main() -> int:
    """Return exit status 0, or log the reason and return 1 when the node could not be prepared."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "config", "contact-points", "tls-dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("command", nargs="+", help="the node's, without -Dcassandra.config")
    arguments = parser.parse_args()
    logs.configure("cassandra")
    done = Path(arguments.data) / DONE
    if done.exists():
        return 0
    try:
        adopt(arguments)
    except AdoptionError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    write_atomically(done, "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
