"""The real components: started, filled by the deploy steps, killed, started again."""

import httpx
import pytest
from confluent_kafka.admin import AdminClient

from coinmesh_contracts import topics
from coinmesh_local.steps import schemas
from coinmesh_local.testing import TestMesh

pytestmark = pytest.mark.component


def test_steps_fill_the_components(mesh: TestMesh) -> None:
    mesh.require("topics", "schemas", "migrations", "bucket", "redis")
    admin = AdminClient({"bootstrap.servers": mesh.endpoints["kafka"]})
    found = admin.list_topics(timeout=30).topics
    assert {t.name: len(found[t.name].partitions) for t in topics.ALL} == {
        t.name: t.partitions for t in topics.ALL
    }
    subjects = set(httpx.get(mesh.endpoints["registry"] + "/subjects").json())
    assert subjects >= {contract.subject for contract in schemas.contracts()}
