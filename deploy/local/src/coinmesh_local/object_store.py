"""Prepares the S3 store: credentials, generated once and readable by the owner only."""

import json
import secrets
import shutil
import sys
from pathlib import Path

from coinmesh_local.paths import write_atomically


def write_identities(directory: Path) -> None:
    """Make `s3.json` (for clients) on first use and `s3-identities.json` (for the server)."""
    path = directory / "s3.json"
    if not path.exists():
        fresh = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        write_atomically(path, json.dumps(fresh) + "\n", 0o600)
    identity = {
        "name": "coinmesh",
        "credentials": [json.loads(path.read_text())],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    text = json.dumps({"identities": [identity]}, indent=2) + "\n"
    write_atomically(directory / "s3-identities.json", text, 0o600)


def forget_election(data: Path) -> None:
    """Drop the master's Raft log, which with one master only costs a 15 s election at each start.

    Volume ids come back with the volume server's first heartbeat.
    """
    for directory in data.glob("m[0-9]*"):
        shutil.rmtree(directory)


if __name__ == "__main__":
    write_identities(Path(sys.argv[1]))
    forget_election(Path(sys.argv[2]))
