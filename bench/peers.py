"""The peers' environments: each created once, in the user's cache."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
BIN = CHECKOUT / ".venv/bin"


def peer_python(directory: Path) -> Path:
    """Return the interpreter with `directory`'s requirements.txt; install them on first use."""
    wanted = (directory / "requirements.txt").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "coinmesh")
    place = cache / f"bench-{directory.name}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python = place / "bin/python"
    if not (place / "complete").exists():
        subprocess.run(
            [BIN / "uv", "venv", "--clear", "-q", "--python", sys.executable, place], check=True
        )
        install = [BIN / "uv", "pip", "install", "-q", "--python", python, "-r"]
        subprocess.run([*install, directory / "requirements.txt"], check=True)
        (place / "complete").touch()
    return python


def main() -> None:
    """Create every peer's environment."""
    for requirements in sorted(Path(__file__).parent.glob("*/requirements.txt")):
        print(f"{requirements.parent.name}: {peer_python(requirements.parent)}")


if __name__ == "__main__":
    main()
