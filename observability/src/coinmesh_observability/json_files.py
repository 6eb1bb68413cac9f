"""The files that components read, written as JSON."""

import json
from pathlib import Path
from typing import Any

from meshkit.files import write_atomically


def write(path: Path, content: Any, mode: int = 0o644) -> None:
    """Replace a file by JSON, its directory made if need be."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", mode)
