"""Fixtures shared by the tests of several packages."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from coinmesh_local.mesh import Options, caller_environment
from coinmesh_local.testing import TestMesh, Workspace


def pytest_configure() -> None:
    """Disable Hypothesis's deadlines: beside a starting mesh an example takes seconds."""
    settings.register_profile(
        "any-load", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any-load")


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """Yield a directory for this run's meshes; processes of killed runs are stopped first."""
    place = Workspace()
    yield place
    place.close()


@pytest.fixture(scope="session")
def mesh(workspace: Workspace) -> Iterator[TestMesh]:
    """Yield the shared mesh: `mesh.require("kafka", "schemas")` starts missing components.

    With COINMESH_TEST_HOME it is the one of that directory, and keeps running for the next run.
    """
    recorded = {k: v for k, v in caller_environment().items() if k == "COINMESH_RECORDED"}
    options = Options(ports="free", profile="full")
    if home := os.environ.get("COINMESH_TEST_HOME"):
        yield TestMesh(Path(home).absolute(), options, recorded, keeps_running=True)
        return
    with workspace.mesh("mesh", options, recorded) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> None:
    """Remove settings of a developer's shell, which must not leak into tests."""
    for name in [k for k in os.environ if k.startswith("COINMESH_")]:
        if name not in ("COINMESH_RECORDED", "COINMESH_KEEP_TEST", "COINMESH_TEST_HOME"):
            del os.environ[name]
