"""`python -m coinmesh_local.unprivileged COMMAND…`: runs what refuses to run as root.

For root the command becomes user 1000 of a user namespace of its own (unshare(1), util-linux
≥ 2.38): it has none of root's capabilities, and what it writes still belongs to the
mesh's user, so no directory changes hands. For anybody else it is started as it is.
"""

import os
import sys

USER = "1000"


def command(words: list[str], root: bool) -> list[str]:
    """`words`, in a user namespace for root."""
    if not root:
        return words
    return ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", "--", *words]


def main() -> None:
    """Become the command: process id, session and standard streams stay."""
    words = command(sys.argv[1:], os.geteuid() == 0)
    try:
        os.execvp(words[0], words)  # noqa: S606
    except FileNotFoundError:
        sys.exit(f"{words[0]} is missing. Way out: apt-get install util-linux")


if __name__ == "__main__":
    main()
