"""New services come into a running mesh by `make service` alone, in a copy of the tree.

What is generated passes every check of the tree.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from coinmesh_local.paths import BIN, CHECKOUT, cache_directory

CHECKS = "deploy/local/tests/new_services.py"
#: Compiled when it is installed, which takes minutes; it isn't started here.
COMPILED = "services/collector-binance"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with an environment of its own, over what this one has installed."""
    copy = tmp_path_factory.mktemp("tree")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
    (site,) = (copy / ".venv" / "lib").glob("python*/site-packages")
    # Only packages: what is editable there would bring the checkout's own.
    (installed,) = BIN.parent.glob("lib/python*/site-packages")
    (site / "zz-installed.pth").write_text(f"{installed}\n{copy / COMPILED / 'src'}\n")
    _link_commands(copy / ".venv" / "bin")
    install(copy, *_packages(copy))
    # As `make install` leaves it: nothing of it is older than what it was made of.
    for stamp in (".runtime", ".dev", ".packages"):
        (copy / ".venv" / stamp).touch()
    # Checks of the tree ask git for its files.
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    return copy


def _packages(copy: Path) -> list[str]:
    found = [*copy.glob("*/pyproject.toml"), *copy.glob("*/*/pyproject.toml")]
    names = sorted(str(path.parent.relative_to(copy)) for path in found)
    return [name for name in names if name != COMPILED]


def _link_commands(commands: Path) -> None:
    """What third-party packages have installed."""
    own = [
        name
        for path in [*CHECKOUT.glob("*/pyproject.toml"), *CHECKOUT.glob("*/*/pyproject.toml")]
        for name in tomllib.loads(path.read_text())["project"].get("scripts", {})
    ]
    for path in BIN.iterdir():
        if path.name not in own and not (commands / path.name).exists():
            (commands / path.name).symlink_to(path)


def install(copy: Path, *packages: str) -> None:
    """As the Makefile does."""
    flags = ["--quiet", "--no-deps", "--no-build-isolation"]
    editable = [word for name in packages for word in ("-e", name)]
    python = copy / ".venv" / "bin" / "python"
    subprocess.run(
        [BIN / "uv", "pip", "install", "--python", python, *flags, *editable],
        cwd=copy,
        env=environment() | {"UV_CACHE_DIR": str(cache_directory() / "uv")},
        check=True,
    )


def environment() -> Mapping[str, str]:
    """Of processes in the copy: not part of this run of pytest or make, and without a network."""
    ours = ("VIRTUAL_ENV", "PYTEST", "MAKE", "MFLAGS", "GIT_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"UV_OFFLINE": "1"}


@pytest.mark.component
@pytest.mark.timeout(1500)
def test_new_services_join_a_running_mesh(tree: Path) -> None:
    command = [tree / ".venv/bin/python", "-m", "pytest", "-q", "-x", "--timeout=1200", CHECKS]
    done = subprocess.run(
        command, cwd=tree, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\b\d+ passed", done.stdout)
