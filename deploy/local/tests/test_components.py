"""The real components: filled by the deploy steps, killed, started again with what they held."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from pyarrow import fs

from coinmesh_access import certificates, store_key
from coinmesh_access.credentials import MOUNT
from coinmesh_access.login import SETUP, Vault
from coinmesh_contracts import topics
from coinmesh_local import renewals
from coinmesh_local.paths import CHECKOUT
from coinmesh_local.steps import bucket, migrations, schemas
from coinmesh_local.steps import topics as topic_step
from coinmesh_local.steps.errors import StepError
from coinmesh_local.steps.schemas import Contract, SchemaDeployment
from coinmesh_local.testing import TestMesh, Workspace, eventually
from meshkit.kafka import client_config
from meshkit.registry_client import RegistryClient
from meshkit.s3 import s3_client
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings, S3Settings

pytestmark = pytest.mark.component

BASE = 'syntax = "proto3";\npackage t.v1;\n'
FIRST = BASE + "message Thing {\n  string id = 1;\n  int64 count = 2;\n}\n"
GROWN = BASE + "message Thing {\n  string id = 1;\n  int64 count = 2;\n  string more = 3;\n}\n"
BROKEN = BASE + "message Thing {\n  string id = 1;\n  string count = 2;\n}\n"
SHRUNK = BASE + "message Thing {\n  string id = 1;\n}\n"
RETIRED = BASE + 'message Thing {\n  reserved 2;\n  reserved "count";\n  string id = 1;\n}\n'


@pytest.fixture
def deployment(mesh: TestMesh) -> Iterator[SchemaDeployment]:
    mesh.require("schemas")
    with RegistryClient(mesh.read(RegistrySettings)) as client:
        yield SchemaDeployment(client)


def test_topics_are_as_the_contracts_say_and_are_kept_so(mesh: TestMesh) -> None:
    mesh.require("topics")
    admin = AdminClient(client_config(mesh.read(KafkaSettings), "test"))
    found = admin.list_topics(timeout=30).topics
    for topic in topics.ALL:
        assert len(found[topic.name].partitions) == topic.partitions

    changed = topics.ALL[0]
    altered = topic_step.Wanted(changed.name, changed.partitions, {"retention.ms": "12345"})
    topic_step.create(mesh.read(KafkaSettings), [altered])
    topic_step.create(mesh.read(KafkaSettings), [altered])
    resource = ConfigResource(ResourceType.TOPIC, changed.name)
    entries = next(iter(admin.describe_configs([resource]).values())).result(timeout=30)
    assert entries["retention.ms"].value == "12345"
    assert entries["message.timestamp.type"].value == "LogAppendTime"


def test_partitions_of_a_topic_never_change(mesh: TestMesh) -> None:
    mesh.require("topics")
    wrong = topic_step.Wanted(topics.TRADES.name, topics.TRADES.partitions + 1)
    with pytest.raises(StepError, match=r"has 4 partitions, the contracts say 5"):
        topic_step.create(mesh.read(KafkaSettings), [wrong])


def test_every_contract_is_registered_once_with_its_references(mesh: TestMesh) -> None:
    mesh.require("schemas")
    settings = mesh.read(RegistrySettings)
    before = schemas.register_all(settings)
    assert schemas.register_all(settings) == before
    subject = f"{topics.TRADES.name}-value"
    latest = _get(mesh, f"/subjects/{subject}/versions/latest")
    assert [r["name"] for r in latest["references"]] == ["coinmesh/events/v1/event_type.proto"]


def test_an_incompatible_change_is_refused(deployment: SchemaDeployment) -> None:
    first = deployment.register(Contract("t-value", FIRST, ()))
    for text in (BROKEN, SHRUNK):
        with pytest.raises(StepError, match=r"refuses t-value: .*only grow"):
            deployment.register(Contract("t-value", text, ()))
    assert deployment.register(Contract("t-value", FIRST, ())) == first
    assert deployment.register(Contract("t-value", GROWN, ())) != first


def test_a_retired_field_may_go_when_its_number_is_reserved(deployment: SchemaDeployment) -> None:
    deployment.register(Contract("retired-value", FIRST, ()))
    deployment.register(Contract("retired-value", RETIRED, ()))


def test_an_unresolved_import_and_nonsense_are_refused(deployment: SchemaDeployment) -> None:
    unresolved = BASE + 'import "no/such.proto";\nmessage Thing {\n  no.Such such = 1;\n}\n'
    for subject, text in (("u-value", unresolved), ("n-value", "this is no contract")):
        with pytest.raises(StepError, match=f"refuses {subject}"):
            deployment.register(Contract(subject, text, ()))


def test_schemas_survive_a_restart_and_a_kill_of_the_registry(mesh: TestMesh) -> None:
    mesh.require("schemas")
    before = schemas.register_all(mesh.read(RegistrySettings))
    component = mesh.component("apicurio")
    component.restart()
    assert _ids(mesh, before) == before
    component.kill()
    component.wait_ready()
    assert _ids(mesh, before) == before
    assert _get(mesh, "/config")["compatibilityLevel"] == "BACKWARD_TRANSITIVE"


def _get(mesh: TestMesh, path: str) -> Any:
    return httpx.get(mesh.endpoints["registry"] + path, verify=mesh.tls()).json()


def _ids(mesh: TestMesh, subjects: dict[str, int]) -> dict[str, int]:
    """The ids that the registry has now, registering nothing."""
    return {
        subject: _get(mesh, f"/subjects/{subject.replace('/', '%2F')}/versions/latest")["id"]
        for subject in subjects
    }


def test_an_unreachable_registry_is_named(unused_tcp_port: int) -> None:
    settings = RegistrySettings(
        schema_registry_url=f"http://127.0.0.1:{unused_tcp_port}/v7", schema_registry_wait_seconds=0
    )
    with pytest.raises(StepError, match=f"127.0.0.1:{unused_tcp_port}"):
        schemas.register_all(settings)


def test_migrations_run_once_and_altered_ones_are_refused(mesh: TestMesh, tmp_path: Path) -> None:
    mesh.require("cassandra")
    settings = _keyspace(mesh, "migrations_test")
    first = tmp_path / "0001_things.cql"
    first.write_text("-- a comment; with a semicolon\nCREATE TABLE things (a text PRIMARY KEY);\n")
    assert migrations.apply(settings, tmp_path) == ["0001_things.cql"]
    assert migrations.apply(settings, tmp_path) == []
    (tmp_path / "0002_more.cql").write_text("ALTER TABLE things ADD b text;")
    assert migrations.apply(settings, tmp_path) == ["0002_more.cql"]
    first.write_text("CREATE TABLE things (a int PRIMARY KEY);\n")
    with pytest.raises(StepError, match=r"0001_things.cql was altered"):
        migrations.apply(settings, tmp_path)
    first.unlink()
    (tmp_path / "0002_more.cql").rename(tmp_path / "0001_more.cql")
    with pytest.raises(StepError, match=r"0002_more.cql was applied but its file is gone"):
        migrations.apply(settings, tmp_path)


def _keyspace(mesh: TestMesh, name: str) -> CassandraSettings:
    return mesh.read(CassandraSettings).model_copy(update={"cassandra_keyspace": name})


def test_a_failed_migration_is_not_recorded(mesh: TestMesh, tmp_path: Path) -> None:
    mesh.require("cassandra")
    settings = _keyspace(mesh, "failing_test")
    path = tmp_path / "0001_things.cql"
    path.write_text("CREATE TABLE IF NOT EXISTS t (a text PRIMARY KEY); CREATE NONSENSE;")
    with pytest.raises(StepError, match=r"0001_things\.cql: Cassandra refused “CREATE NONSENSE”"):
        migrations.apply(settings, tmp_path)
    path.write_text("CREATE TABLE IF NOT EXISTS t (a text PRIMARY KEY);")
    assert migrations.apply(settings, tmp_path) == ["0001_things.cql"]


def test_the_mesh_own_migrations_apply_and_survive_kill_9(mesh: TestMesh) -> None:
    mesh.require("migrations")
    component = mesh.component("cassandra")
    component.kill()
    component.wait_ready()
    directory = CHECKOUT / "deploy" / "cassandra" / "migrations"
    assert migrations.apply(mesh.read(CassandraSettings), directory) == []


@pytest.fixture
def store(mesh: TestMesh) -> fs.S3FileSystem:
    """The object store, as the deploy step comes to it."""
    mesh.require("bucket")
    settings = mesh.read(S3Settings)
    credentials = settings.s3_credentials()
    return fs.S3FileSystem(
        access_key=credentials.access_key,
        secret_key=credentials.secret_key.get_secret_value(),
        endpoint_override=settings.s3_endpoint.removeprefix("https://"),
        tls_ca_file_path=str(mesh.home.ca),
        region="us-east-1",
    )


def test_objects_survive_kill_9_and_strangers_get_none(
    mesh: TestMesh, store: fs.S3FileSystem
) -> None:
    settings = mesh.read(S3Settings)
    assert settings.s3_credentials_file.stat().st_mode & 0o777 == 0o600
    with store.open_output_stream("coinmesh/kept") as stream:
        stream.write(b"kept" * 10_000)
    component = mesh.component("seaweedfs")
    component.kill()
    component.wait_ready()
    bucket.create(settings)
    with store.open_input_stream("coinmesh/kept") as stream:
        assert stream.read() == b"kept" * 10_000
    kept = f"{settings.s3_endpoint}/coinmesh/kept"
    assert httpx.get(kept, verify=mesh.tls()).status_code == 403


def test_objects_are_encrypted_on_the_disk(mesh: TestMesh, store: fs.S3FileSystem) -> None:
    canary = os.urandom(1 << 20)
    with store.open_output_stream("coinmesh/canary") as stream:
        stream.write(canary)
    written = [path for path in (mesh.home.data / "seaweedfs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) > len(canary)
    for path in written:
        found = path.read_bytes()
        assert not any(canary[at : at + 24] in found for at in range(0, len(canary), 1 << 16)), path
    with store.open_input_stream("coinmesh/canary") as stream:
        assert stream.read() == canary
    for name in ("canary", bucket.CANARY):
        found = s3_client(mesh.read(S3Settings)).head_object(Bucket="coinmesh", Key=name)
        assert found["ServerSideEncryption"] == "AES256"


def test_a_store_with_another_key_is_told_of(mesh: TestMesh, store: fs.S3FileSystem) -> None:
    settings, component = mesh.read(S3Settings), mesh.component("seaweedfs")
    place = Vault(mesh.settings["COINMESH_VAULT_ADDR"], Path(mesh.settings["COINMESH_VAULT_CA"]))
    client = place.login(mesh.home.secrets, SETUP)
    first = store_key.read(client)
    keep = {"path": store_key.PATH, "mount_point": MOUNT}
    client.secrets.kv.v2.create_or_update_secret(secret={"kek": "0" * 64}, **keep)
    try:
        component.restart()
        with pytest.raises(StepError, match="kv/seaweedfs/sse"):
            bucket.create(settings)
    finally:
        client.secrets.kv.v2.create_or_update_secret(secret={"kek": first}, **keep)
        component.restart()
    bucket.create(settings)


def test_kafka_starts_from_damaged_storage(workspace: Workspace) -> None:
    with TestMesh(workspace.root / "damaged") as mesh:
        mesh.require("topics")
        component = mesh.component("kafka")
        admin = AdminClient(client_config(mesh.read(KafkaSettings), "test"))
        meta = mesh.home.data / "kafka" / "log" / "meta.properties"
        for damage in ("", "version=1\ncluster.id=another-cluster-0000000\nnode.id=1\n", None):
            component.stop()
            if damage is None:
                meta.unlink()
                (meta.parent.parent / "log.new").mkdir()
            else:
                meta.write_text(damage)
            component.start()
            assert topics.TRADES.name in admin.list_topics(timeout=30).topics


def leaders(mesh: TestMesh, names: tuple[str, ...]) -> dict[str, int]:
    """The process that was started for each: another one after a restart."""
    status = mesh.status()
    return {name: status[name]["pid"] for name in names}


def test_three_brokers_replicate_and_outlive_one(workspace: Workspace) -> None:
    from coinmesh_local.mesh import Options

    with TestMesh(workspace.root / "ha", Options(ha=True, ports="free")) as mesh:
        mesh.require("topics")
        admin = AdminClient(client_config(mesh.read(KafkaSettings), "test"))
        metadata = admin.list_topics(topics.TRADES.name, timeout=30)
        partitions = metadata.topics[topics.TRADES.name].partitions
        assert {len(p.replicas) for p in partitions.values()} == {3}
        brokers = ("kafka-1", "kafka-2", "kafka-3")
        # The agent's own hook, repeated until all brokers listen, would restart them side by side.
        current = certificates.current(mesh.home.tls / "kafka")
        assert current is not None
        eventually(lambda: current.hooks_done, "the hook of the first certificate is done")
        # As if it had been renewed, and one had been restarted since.
        (mesh.home.tls / "kafka" / "current" / "tls.crt").touch()
        mesh.component("kafka-1").restart()
        before = leaders(mesh, brokers)
        renewals.kafka(mesh.mesh)
        after = leaders(mesh, brokers)
        assert {name for name in brokers if after[name] != before[name]} == set(brokers[1:])
        renewals.kafka(mesh.mesh)
        assert leaders(mesh, brokers) == after
        mesh.component("kafka-2").stop()
        topic_step.create(mesh.read(KafkaSettings), topic_step.mesh_topics())
