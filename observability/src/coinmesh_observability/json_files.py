"""Configuration files written as JSON."""

import json
from pathlib import Path
from typing import Any

from meshkit.files import write_atomically


def write(path: Path, content: Any, mode: int = 0o644) -> None:
    """Replace a file by JSON, creating its directory if necessary."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", mode)
