"""A separate mesh for the stream: its watermarks must not include other tests' trades."""

import os
import sys
from pathlib import Path

import pytest

from coinmesh_local.mesh import Options
from coinmesh_local.testing import TestMesh

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def spark_mesh(workspace):
    required = ("topics", "schemas", "kafka-access", "bucket")
    if home := os.environ.get("COINMESH_TEST_HOME"):
        path = Path(f"{home}-spark").absolute()
        mesh = TestMesh(path, Options(ports="free"), {}, keeps_running=True)
        mesh.require(*required)
        yield mesh
        return
    with workspace.mesh("spark") as mesh:
        mesh.require(*required)
        yield mesh


@pytest.fixture
def harness(spark_mesh, tmp_path):
    from harness import Harness

    spark_mesh.require("cassandra-access")
    return Harness(spark_mesh, tmp_path)
