"""The generated grants on real servers: what the table gives works, what it doesn't is refused."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from cassandra import Unauthorized
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pyarrow import fs

from coinmesh_access import (
    cassandra_roles,
    cassandra_session,
    credentials,
    kafka_acls,
    redis_users,
    s3_identities,
    table,
)
from coinmesh_access.credentials import Kind
from coinmesh_access.table import AccessError
from coinmesh_local.paths import BIN
from coinmesh_local.testing import TestMesh, eventually
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
TABLE = table.load()
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


def client_files(root: Path, name: str) -> dict[str, str]:
    current = root / name / "current"
    return {
        "key": str(current / "tls.key"),
        "crt": str(current / "tls.crt"),
        "ca": str(current / "ca.crt"),
    }


# -- Redis ----------------------------------------------------------------------------------------


@pytest.fixture
def redis_client(bao: Any, tls_root: Path, tmp_path: Path, process: Start) -> Callable[..., Any]:
    own = client_files(tls_root, "redis")
    acl = tmp_path / "users.acl"
    passwords = credentials.redis_passwords(bao.service("deploy"), TABLE)
    acl.write_text(redis_users.acl_file(TABLE, passwords))
    port = bao.free_port()
    process(
        *("redis-server", "--port", 0, "--tls-port", port, "--bind", "127.0.0.1", "--save", ""),
        *("--tls-cert-file", own["crt"], "--tls-key-file", own["key"]),
        *("--tls-ca-cert-file", own["ca"], "--tls-auth-clients", "yes"),
        *("--tls-protocols", "TLSv1.3", "--aclfile", acl),
    )

    def connect(name: str, password: str, certified: bool = True) -> redis.Redis:
        files = client_files(tls_root, name)
        certificate = {"ssl_certfile": files["crt"], "ssl_keyfile": files["key"]}
        return redis.Redis(
            port=port,
            ssl=True,
            ssl_ca_certs=files["ca"],
            username=name,
            password=password,
            **(certificate if certified else {}),
        )

    def answers() -> bool:
        try:
            return bool(connect("deploy", passwords["deploy"][0]).ping())
        except redis.ConnectionError:
            return False

    eventually(answers, "Redis answers")
    return connect


def test_redis_lets_each_user_do_what_the_table_says(redis_client: Any, bao: Any) -> None:
    (password, *_) = credentials.redis_passwords(
        bao.service("query-gateway"),
        TABLE.model_copy(update={"services": {"query-gateway": TABLE.services["query-gateway"]}}),
    )["query-gateway"]
    gateway = redis_client("query-gateway", password)
    gateway.set("cm:a", "1", ex=60)
    assert gateway.get("cm:a") == b"1"
    script = (
        "redis.call('HSET', KEYS[1], 'version', '1'); redis.call('DEL', KEYS[2]); "
        "redis.call('ZADD', KEYS[2], 1, 'x'); redis.call('SET', KEYS[3], '1'); "
        "return redis.call('HGET', KEYS[1], 'version') .. redis.call('EXISTS', KEYS[3])"
    )
    assert gateway.eval(script, 3, "cm:h", "cm:z", "cm:alive") == b"11"
    assert gateway.hgetall("cm:h") == {b"version": b"1"}
    for refused in (
        lambda: gateway.get("other"),
        lambda: gateway.eval("return redis.call('GET', 'other')", 0),
        lambda: gateway.eval("return redis.call('FLUSHALL')", 0),
        gateway.flushall,
        lambda: gateway.keys("*"),
        lambda: gateway.config_get("*"),
        gateway.acl_list,
        lambda: gateway.publish("x", "y"),
    ):
        with pytest.raises((redis.exceptions.NoPermissionError, redis.ResponseError)):
            refused()


def test_redis_refuses_strangers_and_takes_two_passwords_in_a_rotation(
    redis_client: Any, bao: Any, tmp_path: Path
) -> None:
    admin = bao.admin()
    (old, *_) = credentials.redis_passwords(admin, TABLE)["query-gateway"]
    (deployer, *_) = credentials.redis_passwords(admin, TABLE)["deploy"]
    for name, password in (("query-gateway", "wrong"), ("envoy", old), ("default", old)):
        client = redis_client("query-gateway", password)
        client.connection_pool.connection_kwargs["username"] = name
        with pytest.raises(redis.AuthenticationError):
            client.ping()
    with pytest.raises(redis.ConnectionError):
        redis_client("query-gateway", old, certified=False).ping()
    new = credentials.rotate(admin, "query-gateway", Kind.REDIS)["password"]
    acl = redis_users.acl_file(TABLE, credentials.redis_passwords(admin, TABLE))
    (tmp_path / "users.acl").write_text(acl)
    redis_client("deploy", deployer).acl_load()
    assert redis_client("query-gateway", old).ping()
    assert redis_client("query-gateway", new).ping()


# -- S3 -------------------------------------------------------------------------------------------


def test_s3_keeps_each_service_to_its_prefixes(bao: Any, tmp_path: Path, process: Start) -> None:
    keys = credentials.s3_keys(bao.service("deploy"), TABLE)
    configuration = tmp_path / "s3.json"
    configuration.write_text(json.dumps(s3_identities.identities(TABLE, keys)))
    ports = {name: bao.free_port() for name in ("s3", "master", "volume", "filer")}
    grpc = [f"-{name}.port.grpc={bao.free_port()}" for name in ports]
    data = tmp_path / "data"
    data.mkdir()
    process(
        *(
            BIN / "weed",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
        ),
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(*grpc, "-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"),
        *(f"-s3.config={configuration}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    )

    def store(access_key: str, secret_key: str) -> Any:
        return fs.S3FileSystem(
            access_key=access_key,
            secret_key=secret_key,
            endpoint_override=f"127.0.0.1:{ports['s3']}",
            scheme="http",
            region="local",
            request_timeout=20,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            check_directory_existence_before_creation=False,
        )

    def put(client: Any, key: str, bucket: str = "coinmesh") -> None:
        with client.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(key.encode())

    def get(client: Any, key: str, bucket: str = "coinmesh") -> bytes:
        with client.open_input_stream(f"{bucket}/{key}") as stream:
            return stream.read()

    def listed(client: Any, prefix: str) -> list[str]:
        found = client.get_file_info(fs.FileSelector(f"coinmesh/{prefix}", recursive=True))
        return sorted(entry.path for entry in found if entry.is_file)

    admin, spark, cli = (store(**keys[name][0]) for name in ("deploy", "spark-stream", "cli"))
    stranger = store("0" * 20, "0" * 40)

    def ready() -> bool:
        try:
            bucket = fs.S3FileSystem(
                access_key=keys["deploy"][0]["access_key"],
                secret_key=keys["deploy"][0]["secret_key"],
                endpoint_override=f"127.0.0.1:{ports['s3']}",
                scheme="http",
                region="local",
                allow_bucket_creation=True,
            )
            bucket.create_dir("coinmesh")
            bucket.create_dir("coinmesh-audit")
            put(admin, "audit/head")
        except OSError:
            return False
        return True

    eventually(ready, "the S3 store takes an object", timeout=90)
    put(spark, "raw/t/1")
    for client in (spark, cli):
        assert get(client, "raw/t/1") == b"raw/t/1"
        assert listed(client, "raw") == ["coinmesh/raw/t/1"]
    anchor = store(**keys["audit-anchor"][0])
    put(anchor, "audit/1", "coinmesh-audit")
    for client in (anchor, cli):
        assert get(client, "audit/1", "coinmesh-audit") == b"audit/1"
    for refused in (
        lambda: get(cli, "audit/head"),
        lambda: put(cli, "audit/2", "coinmesh-audit"),
        lambda: put(anchor, "other/1", "coinmesh-audit"),
        lambda: put(anchor, "audit/1"),
        lambda: get(spark, "audit/1", "coinmesh-audit"),
        lambda: put(spark, "curated/x"),
        lambda: put(spark, "rawx"),
        lambda: get(spark, "audit/head"),
        lambda: listed(spark, "audit"),
        lambda: put(cli, "raw/t/2"),
        lambda: cli.delete_file("coinmesh/raw/t/1"),
        lambda: get(stranger, "raw/t/1"),
    ):
        with pytest.raises(OSError, match=r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|403"):
            refused()
    assert listed(admin, "") == ["coinmesh/audit/head", "coinmesh/raw/t/1"]


# -- Kafka ----------------------------------------------------------------------------------------


@pytest.fixture
def kafka(mesh: TestMesh) -> Configured:
    """The mesh's own brokers; client configurations by service."""
    mesh.require("kafka-access", "topics")

    def configuration(name: str) -> dict[str, Any]:
        return {**client_config(mesh.read(KafkaSettings, name), name), "log_level": 0}

    return configuration


def produced(
    configuration: dict[str, Any], topic: str, *, idempotent: bool = True
) -> KafkaError | None:
    """The error with which a record comes back, None when it was taken."""
    found: list[KafkaError | None] = []
    producer = Producer(
        {**configuration, "enable.idempotence": idempotent, "message.timeout.ms": 20000}
    )
    producer.produce(topic, b"x", on_delivery=lambda error, _: found.append(error))
    producer.flush(30)
    assert len(found) == 1
    return found[0]


def consumed(configuration: dict[str, Any], topic: str, group: str) -> KafkaError | None:
    """The error with which a reader meets, None when it got a record and committed it."""
    consumer = Consumer({**configuration, "group.id": group, "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        # In a list, because a message without a value is false.
        (message,) = eventually(
            lambda: [found for found in [consumer.poll(1)] if found is not None],
            "a record or an error",
            timeout=30,
        )
        if message.error():
            return message.error()
        consumer.commit(message=message, asynchronous=False)
    except KafkaException as error:
        return error.args[0]
    finally:
        consumer.close()
    return None


def test_kafka_holds_to_the_table(kafka: Configured) -> None:
    again = kafka_acls.apply(kafka("deploy"), TABLE)
    assert (again.create, again.delete) == ((), ())

    collector, gateway, spark = (
        kafka(name) for name in ("collector-binance", "query-gateway", "spark-stream")
    )
    assert produced(collector, "market.trades.v1") is None
    assert produced(spark, "market.bars.v1") is None
    assert consumed(gateway, "market.trades.v1", "query-gateway") is None
    assert consumed(spark, "market.trades.v1", "spark-kafka-source-1") is None

    refused = KafkaError.TOPIC_AUTHORIZATION_FAILED
    for configuration, topic in (
        (collector, "market.bars.v1"),
        (gateway, "market.trades.v1"),
        (kafka("envoy"), "market.trades.v1"),
        (spark, "audit.events.v1"),
    ):
        error = produced(configuration, topic, idempotent=False)
        assert error is not None
        assert error.code() == refused
    reader = Consumer({**collector, "group.id": "collector-binance"})
    seen = reader.list_topics("market.bars.v1", timeout=30).topics["market.bars.v1"]
    reader.close()
    assert seen.error is not None
    assert seen.error.code() == refused
    # Held on to: its answers don't come once it is gone.
    as_gateway = AdminClient(gateway)
    described = as_gateway.describe_consumer_groups(["spark-stream"])
    with pytest.raises(KafkaException) as failed:
        described["spark-stream"].result(timeout=30)
    assert failed.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException) as failed:
        as_gateway.create_topics([NewTopic("x", 1, 1)])["x"].result(timeout=30)
    assert failed.value.args[0].code() in (
        refused,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )

    services = {**TABLE.services, "collector-binance": table.Service(description="nothing now")}
    less = TABLE.model_copy(update={"services": services})
    assert kafka_acls.apply(kafka("deploy"), less).delete
    try:
        eventually(
            lambda: produced(collector, "market.trades.v1", idempotent=False) is not None,
            "its ACLs are gone",
            timeout=30,
        )
    finally:
        assert kafka_acls.apply(kafka("deploy"), TABLE).create


# -- Cassandra ------------------------------------------------------------------------------------


def test_cassandra_holds_to_the_table(mesh: TestMesh) -> None:
    mesh.require("cassandra-access")
    cassandra, tls_root = mesh.endpoints["cassandra"], mesh.home.tls
    insert = "INSERT INTO coinmesh.trades (instrument, bucket, shard, event_time, trade_id) "
    insert += "VALUES ('a', 0, 0, 0, 1)"
    select = "SELECT trade_id FROM coinmesh.trades"
    with cassandra_session.connect(cassandra, tls_root / "spark-stream") as spark:
        spark.execute(insert)
        for refused in (select, "CREATE ROLE x", "DROP TABLE coinmesh.bars_1m"):
            with pytest.raises(Unauthorized):
                spark.execute(refused)
    with cassandra_session.connect(cassandra, tls_root / "query-gateway") as gateway:
        assert 1 in {row.trade_id for row in gateway.execute(select)}
        for refused in (
            insert,
            "DROP TABLE coinmesh.trades",
            "SELECT * FROM system_auth.roles",
            'GRANT MODIFY ON TABLE coinmesh.trades TO "query-gateway"',
        ):
            with pytest.raises(Unauthorized):
                gateway.execute(refused)
    for stranger in ("envoy", "collector-binance"):
        with (
            pytest.raises(AccessError),
            cassandra_session.connect(cassandra, tls_root / stranger),
        ):
            pass
    with (
        pytest.raises(AccessError),
        cassandra_session.connect(
            cassandra, tls_root / "envoy", password=("cassandra", "cassandra")
        ),
    ):
        pass
    with cassandra_session.connect(cassandra, tls_root / "deploy") as session:
        session.execute('GRANT MODIFY ON TABLE coinmesh.trades TO "query-gateway"')
        assert cassandra_roles.apply(session, TABLE) == [
            'REVOKE MODIFY ON TABLE coinmesh.trades FROM "query-gateway"'
        ]
