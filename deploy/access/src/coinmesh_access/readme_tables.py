"""Markdown tables generated from manifests and component files."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from coinmesh_access.table import AccessError
from coinmesh_manifests.discovery import CHECKOUT, discover


def markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a markdown table."""
    columns = tuple(heads)
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def services(page: Path, tree: Path = CHECKOUT) -> str:
    """Return a table of the services, jobs and simulators of `tree`, with links from `page`."""
    rows = [
        (f"[{name}]({_link(page, manifest.path.parent)})", manifest.kind, manifest.description)
        for name, manifest in sorted(discover(tree).items())
    ]
    return markdown(("name", "kind", "what it does"), rows)


def _link(page: Path, directory: Path) -> str:
    readme = directory / "README.md"
    target = readme if readme.is_file() else directory
    return os.path.relpath(target.resolve(), page.resolve().parent)


def ports(directory: Path) -> str:
    """Return the ports of the component files of a directory, with those of the full profile."""
    files = sorted(directory.glob("*.toml"))
    if not files:
        raise AccessError(f"{directory} has no component files")
    rows = [
        (path.stem, listener, str(number))
        for path in files
        for listener, number in _ports(tomllib.loads(path.read_text())).items()
    ]
    return markdown(("component", "listener", "port"), rows)


def _ports(component: Mapping[str, Any]) -> dict[str, int]:
    return {**component.get("ports", {}), **component.get("full", {}).get("ports", {})}
