"""Fixtures that tests of several packages share."""

import os
from collections.abc import Iterator

import pytest

from coinmesh_local.mesh import Options, caller_environment
from coinmesh_local.testing import TestMesh, Workspace


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """A directory for this run's meshes; what killed runs left running is stopped first."""
    place = Workspace()
    yield place
    place.close()


@pytest.fixture(scope="session")
def mesh(workspace: Workspace) -> Iterator[TestMesh]:
    """The mesh that tests share: `mesh.require("kafka", "schemas")` starts what is not up yet."""
    recorded = {k: v for k, v in caller_environment().items() if k == "COINMESH_RECORDED"}
    options = Options(ports="free", profile="full")
    with workspace.mesh("mesh", options, recorded) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> None:
    """Settings of a developer's shell must not leak into tests."""
    for name in [k for k in os.environ if k.startswith("COINMESH_")]:
        if name not in ("COINMESH_RECORDED", "COINMESH_KEEP_TEST"):
            del os.environ[name]
