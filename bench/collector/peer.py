"""The peer's environment: made once, kept in the user's cache."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
BIN = CHECKOUT / ".venv/bin"


def peer_python() -> Path:
    """Its interpreter; installs the environment when it isn't there."""
    wanted = (HERE / "requirements.txt").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "coinmesh")
    place = cache / f"bench-collector-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python = place / "bin/python"
    if not (place / "complete").exists():
        subprocess.run(
            [BIN / "uv", "venv", "--clear", "-q", "--python", sys.executable, place], check=True
        )
        install = [BIN / "uv", "pip", "install", "-q", "--python", python, "-r"]
        subprocess.run([*install, HERE / "requirements.txt"], check=True)
        (place / "complete").touch()
    return python
