"""The repository as tracked by git."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> Callable[..., list[Path]]:
    """Return `tracked("*.py", …)`: existing files that git tracks or would track."""

    def listed(*patterns: str) -> list[Path]:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--"]
        result = subprocess.run(
            [*command, *patterns], cwd=ROOT, capture_output=True, text=True, check=True
        )
        paths = (ROOT / name for name in result.stdout.split("\0") if name)
        return sorted(path for path in paths if path.is_file())

    return listed
