"""`coinmesh audit` on real Kafka, OpenBao and S3: tampering with topic or anchors is named."""

import asyncio
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import ClientError
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from coinmesh_access import accounting
from coinmesh_audit.anchors import object_name
from coinmesh_audit.log import ALLOWED, AuditSettings
from coinmesh_audit.store import AnchorStore, AuditStoreSettings
from coinmesh_cli import audit
from coinmesh_cli.main import app
from coinmesh_contracts.events.v1 import audit_event_pb2 as pb
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh, eventually
from meshkit.kafka import client_config
from meshkit.s3 import s3_client
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
Record = tuple[bytes, bytes]
Verify = Callable[..., tuple[int, list[str]]]
LENGTH = 6


@pytest.fixture(scope="module")
def home(mesh: TestMesh) -> Iterator[TestMesh]:
    """The mesh with its anchoring process, in the environment of an operator's commands."""
    mesh.environment["COINMESH_AUDIT_ANCHOR_SECONDS"] = "1"
    mesh.require("audit-anchor", "schemas")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COINMESH_HOME", str(mesh.home.root))
        yield mesh


@pytest.fixture(scope="module")
def records(home: TestMesh) -> list[Record]:
    """What the topic holds once a chain of `LENGTH` records stands on it, covered by an anchor."""

    async def write() -> None:
        async with accounting.operator_log(home.read(AuditSettings, "cli")) as log:
            for number in range(LENGTH):
                await log.record(
                    pb.AUDIT_ACTION_USER_PUT, ALLOWED, actor="os:test", object=f"user{number}"
                )

    asyncio.run(write())
    found = [(m.key() or b"", m.value() or b"") for m in audit.messages()]
    heads = [e for _, e in audit.events() if e.writer.startswith("cli@")]

    def covered() -> bool:
        anchors, faults = audit.read_anchors()
        assert faults == []
        known = anchors[-1].anchored.heads if anchors else {}
        head = heads[-1]
        return head.writer in known and known[head.writer].sequence >= head.sequence

    eventually(covered, "an anchor covers the chain", timeout=60)
    return found


@pytest.fixture
def verify(home: TestMesh, monkeypatch: pytest.MonkeyPatch) -> Iterator[Verify]:
    """Runs `coinmesh audit verify` on a topic that holds other records."""
    settings = home.read(KafkaSettings)
    config = client_config(settings, "test")
    admin, name = AdminClient(config), f"test.{uuid.uuid4().hex}"
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    # The deployer may read every topic; commands' own settings give way to the caller's.
    monkeypatch.setenv("COINMESH_TLS_DIR", str(home.home.tls / "deploy"))
    monkeypatch.setattr(audit, "TOPIC", name)

    def run(tampered: list[Record]) -> tuple[int, list[str]]:
        producer = Producer(config | {"acks": "all"})
        for key, value in tampered:
            producer.produce(name, value, key)
        assert producer.flush(30) == 0
        result = CliRunner().invoke(app, ["audit", "verify"])
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result.exit_code, result.output.splitlines()

    yield run
    admin.delete_topics([name])[name].result(30)


def own(records: list[Record]) -> list[int]:
    """Where the operator's records stand."""
    return [at for at, (key, _) in enumerate(records) if key.startswith(b"cli@")]


def test_what_is_whole_is_said_to_be(records: list[Record], home: TestMesh) -> None:
    done = subprocess.run(
        [BIN / "coinmesh", "audit", "verify"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no faults" in done.stdout
    listed = CliRunner().invoke(app, ["audit", "list", "--actor", "os:test", "-n", "1"])
    assert f"user{LENGTH - 1}" in listed.output


def test_a_changed_record_is_named(records: list[Record], verify: Verify) -> None:
    places = own(records)
    at, sequence = places[-4], len(places) - 3  # behind what others of the session did
    key, value = records[at]
    forged = (key, value.replace(b"os:test", b"os:evil"))
    status, lines = verify([*records[:at], forged, *records[at + 1 :]])
    assert status == 1
    assert any(line.startswith("changed: cli@") and f" {sequence} " in line for line in lines), (
        lines
    )


def test_a_removed_record_is_named(records: list[Record], verify: Verify) -> None:
    at = own(records)[2]
    status, lines = verify([*records[:at], *records[at + 1 :]])
    assert status == 1
    assert [line.split(":")[0] for line in lines[:-1]] == ["removed"], lines


def test_reordered_records_are_named(records: list[Record], verify: Verify) -> None:
    first, second = own(records)[2:4]
    swapped = list(records)
    swapped[first], swapped[second] = swapped[second], swapped[first]
    status, lines = verify(swapped)
    assert status == 1
    assert [line.split(":")[0] for line in lines[:-1]] == ["reordered"], lines


def test_a_chain_that_was_cut_off_is_named(records: list[Record], verify: Verify) -> None:
    last = own(records)[-1]
    status, lines = verify([*records[:last], *records[last + 1 :]])
    assert status == 1
    assert [line.split(":")[0] for line in lines[:-1]] == ["cut off"], lines


def test_anchors_cannot_be_deleted_and_hiding_one_is_told(
    records: list[Record], home: TestMesh
) -> None:
    settings = home.read(AuditStoreSettings)
    store, s3 = AnchorStore(settings), s3_client(settings)  # of the deployer, who may do everything
    kept = store.listed()[0]
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=store.bucket, Key=object_name(kept.number), VersionId=kept.version)
    s3.delete_object(Bucket=store.bucket, Key=object_name(kept.number))
    result = CliRunner().invoke(app, ["audit", "verify"])
    assert result.exit_code == 1
    assert "was deleted; its first version is still there" in result.output
    hidden = next(
        marker
        for marker in s3.list_object_versions(Bucket=store.bucket)["DeleteMarkers"]
        if marker["Key"] == object_name(kept.number)
    )
    s3.delete_object(Bucket=store.bucket, Key=hidden["Key"], VersionId=hidden["VersionId"])
    assert CliRunner().invoke(app, ["audit", "verify"]).exit_code == 0
