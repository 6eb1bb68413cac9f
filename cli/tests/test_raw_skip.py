"""`coinmesh raw skip` on real Kafka and S3: a loss is recorded in manifest and audit log."""

import os
import subprocess
import uuid
from datetime import UTC, datetime

import pytest

from coinmesh_access.accounting import operator
from coinmesh_archive.manifest import Incarnation, Manifest
from coinmesh_archive.store import ArchiveStore
from coinmesh_audit.log import ALLOWED
from coinmesh_cli import audit
from coinmesh_contracts import topics
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh
from meshkit.s3 import make_bucket, s3_client
from meshkit.settings import S3Settings

pytestmark = pytest.mark.component
TOPIC = topics.FRAMES.name


@pytest.fixture
def store(mesh: TestMesh, monkeypatch: pytest.MonkeyPatch) -> ArchiveStore:
    """An archive, in a bucket of its own, of a topic that was created again meanwhile."""
    mesh.require("kafka-access", "topics", "schemas", "bucket")
    bucket = f"raw-skip-{uuid.uuid4().hex}"
    settings = mesh.read(S3Settings).model_copy(update={"s3_bucket": bucket})
    make_bucket(s3_client(settings), bucket)
    store = ArchiveStore(settings)
    deleted = Incarnation(topic_id="deleted", partitions={})
    today = datetime.now(UTC).date().isoformat()
    store.put(Manifest(topic=TOPIC, date=today, incarnations=[deleted], origin=True), None)
    for name, value in mesh.settings.items():
        if name.startswith("COINMESH_S3_"):  # the operator's keys are for the mesh's bucket alone
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("COINMESH_S3_BUCKET", bucket)
    monkeypatch.setenv("COINMESH_HOME", str(mesh.home.root))
    return store


def skip(reason: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "coinmesh", "raw", "skip", TOPIC, "--reason", reason, "--yes"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_skip_is_on_record_with_operator_topic_and_outcome(store: ArchiveStore) -> None:
    reason = f"disk {uuid.uuid4().hex} lost"
    done = skip(reason)
    assert done.returncode == 0, done.stderr
    repeated = skip(reason)
    assert (repeated.returncode, repeated.stdout) == (1, "")
    assert "Kafka has all" in repeated.stderr
    recorded = [event for _, event in audit.events() if reason in event.detail]
    assert [(e.action, e.outcome, e.actor, e.object) for e in recorded] == [
        (pb.AUDIT_ACTION_RAW_SKIP, ALLOWED, operator(), TOPIC)
    ]
    stored = store.newest(TOPIC)
    assert stored is not None
    ended = stored.manifest.incarnations[0].ended
    assert ended is not None
    assert (ended.actor, ended.reason) == (operator(), reason)
