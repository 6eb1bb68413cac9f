"""`python -m coinmesh_local.unprivileged COMMAND…`: run a command that rejects root.

For root the command becomes user 1000 of a separate user namespace (unshare(1), util-linux ≥ 2.38):
it has none of root's capabilities, and its files still belong to the mesh's user, so no directory
changes owner. For any other user it is started unchanged.
"""

import os
import sys

USER = "1000"


def command(words: list[str], root: bool) -> list[str]:
    """Return `words`, prefixed with unshare for root."""
    if not root:
        return words
    return ["unshare", "--user", f"--map-user={USER}", f"--map-group={USER}", "--", *words]


def main() -> None:
    """Replace this process by the command: process id, session and standard streams stay."""
    words = command(sys.argv[1:], os.geteuid() == 0)
    try:
        os.execvp(words[0], words)  # noqa: S606
    except FileNotFoundError:
        sys.exit(f"{words[0]} is missing. Way out: apt-get install util-linux")


if __name__ == "__main__":
    main()
