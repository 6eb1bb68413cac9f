"""The files that components read, written as JSON."""

import json
from pathlib import Path
from typing import Any


def write(path: Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON, a file's directory made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
