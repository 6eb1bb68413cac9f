"""Fixture: a mesh of tiny components."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coinmesh_local.testing import TestMesh, Workspace

sys.path.insert(0, str(Path(__file__).parent))
from tiny_components import Build


@pytest.fixture
def build(workspace: Workspace, tmp_path: Path) -> Iterator[Build]:
    """Yield a builder of meshes from component files given by name; stop them at the end."""
    meshes: list[TestMesh] = []

    def make(**files: str) -> TestMesh:
        for name, text in files.items():
            (tmp_path / f"{name}.toml").write_text(text)
        root = workspace.root / f"{tmp_path.name}-{len(meshes)}"
        meshes.append(TestMesh(root, components=(tmp_path,)))
        return meshes[-1]

    yield make
    for mesh in meshes:
        mesh.close()
