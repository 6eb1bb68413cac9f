"""A mesh of the stream's own: its watermarks must not see other tests' trades."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def spark_mesh(workspace):
    with workspace.mesh("spark") as mesh:
        mesh.require("topics", "schemas", "kafka-access", "cassandra-access", "bucket")
        yield mesh


@pytest.fixture
def harness(spark_mesh, tmp_path):
    from harness import Harness

    return Harness(spark_mesh, tmp_path)
