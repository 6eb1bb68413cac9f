"""The generated grants on real servers: what the table gives works, what it doesn't is refused."""

import json
import re
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
from coinmesh_local import provision
from coinmesh_local.definition import fill
from coinmesh_local.paths import BIN, CHECKOUT, LOCAL
from coinmesh_local.steps.migrations import load, statements
from coinmesh_local.testing import eventually

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

    eventually(answers, "Redis answers", timeout=30)
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

    def put(client: Any, key: str) -> None:
        with client.open_output_stream(f"coinmesh/{key}") as stream:
            stream.write(key.encode())

    def get(client: Any, key: str) -> bytes:
        with client.open_input_stream(f"coinmesh/{key}") as stream:
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
            put(admin, "audit/head")
        except OSError:
            return False
        return True

    eventually(ready, "the S3 store takes an object", timeout=90)
    put(spark, "raw/t/1")
    for client in (spark, cli):
        assert get(client, "raw/t/1") == b"raw/t/1"
        assert listed(client, "raw") == ["coinmesh/raw/t/1"]
    assert get(cli, "audit/head") == b"audit/head"
    for refused in (
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
def kafka(
    bao: Any, tls_root: Path, tmp_path: Path, process: Start
) -> Callable[[str], dict[str, Any]]:
    """A broker that knows its clients by certificate; client configurations by service."""
    provision.ensure(["jdk17", "kafka"], print)
    places = provision.locations()
    broker, controller = bao.free_port(), bao.free_port()
    own = tls_root / "kafka" / "current"
    properties = tmp_path / "kafka.properties"
    properties.write_text(
        f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=SSL://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=SSL:SSL,CONTROLLER:SSL
inter.broker.listener.name=SSL
controller.listener.names=CONTROLLER
log.dirs={tmp_path}/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
ssl.keystore.type=PEM
ssl.keystore.location={own}/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location={own}/ca.crt
ssl.client.auth=required
ssl.endpoint.identification.algorithm=https
ssl.enabled.protocols=TLSv1.3
ssl.principal.mapping.rules={kafka_acls.PRINCIPAL_RULE}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users={kafka_acls.super_users(TABLE)}
allow.everyone.if.no.acl.found=false
"""
    )
    java = [f"{places['jdk17']}/bin/java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    java += ["-cp", f"{places['cache.kafka']}/*"]
    format_tool = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg"]
    subprocess.run([*java, *format_tool, "-c", str(properties)], check=True, capture_output=True)
    process(*java, "-Xmx384m", "kafka.Kafka", properties)

    def configuration(name: str) -> dict[str, Any]:
        files = client_files(tls_root, name)
        return {
            "bootstrap.servers": f"127.0.0.1:{broker}",
            "security.protocol": "ssl",
            "ssl.key.location": files["key"],
            "ssl.certificate.location": files["crt"],
            "ssl.ca.location": files["ca"],
            "allow.auto.create.topics": False,
            "log_level": 0,
        }

    admin = AdminClient(configuration("deploy"))

    def ready() -> bool:
        try:
            return bool(admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    eventually(ready, "Kafka lets the deployer in", timeout=120)
    names = ("market.trades.v1", "market.bars.v1", "audit.events.v1")
    for future in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        future.result(timeout=30)
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
    everything = kafka_acls.apply(kafka("deploy"), TABLE)
    assert len(everything.create) == len(kafka_acls.acls(TABLE))
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
    eventually(
        lambda: produced(collector, "market.trades.v1", idempotent=False) is not None,
        "its ACLs are gone",
        timeout=30,
    )


# -- Cassandra ------------------------------------------------------------------------------------


@pytest.fixture
def cassandra(bao: Any, tls_root: Path, tmp_path: Path, process: Start) -> str:
    """A node that was taken over and knows its clients by certificate; its host:port."""
    provision.ensure(["jdk17", "cassandra"], print)
    places = provision.locations()
    own = tls_root / "cassandra" / "current"
    ports = {name: bao.free_port() for name in ("cql", "storage", "ssl_storage", "jmx")}
    context = {f"port.{name}": str(port) for name, port in ports.items()}
    context |= {"host": "127.0.0.1", "data": str(tmp_path / "data")}
    context |= {"listen.storage": f"127.0.0.1:{ports['storage']}"}
    config = LOCAL / "config"
    validator = "org.apache.cassandra.auth.SpiffeCertificateValidator"
    text = fill((config / "cassandra.yaml").read_text(), context, "cassandra.yaml")
    text = re.sub(r"(?m)^(authenticator|authorizer):.*\n", "", text)
    configuration = tmp_path / "cassandra.yaml"
    by_certificate = f"""authenticator:
  class_name: org.apache.cassandra.auth.MutualTlsAuthenticator
  parameters: {{validator_class_name: {validator}}}
"""
    text += f"""
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
permissions_validity: 0ms
roles_validity: 0ms
client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  protocol: TLS
  accepted_protocols: [TLSv1.3]
  ssl_context_factory: {{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}}
  keystore: {own}/keystore.pem
  truststore: {own}/ca.crt
"""
    options = tmp_path / "jvm.options"
    options.write_text(fill((config / "cassandra-jvm.options").read_text(), context, "jvm.options"))
    lib = places["cache.cassandra"]
    command = (
        *(f"{places['jdk17']}/bin/java", f"@{options}", "-Xms512m", "-Xmx512m"),
        *("-XX:MaxDirectMemorySize=256m", f"-Djava.io.tmpdir={tmp_path}"),
        *(f"-Dcassandra.config=file:{configuration}", f"-Dcassandra.storagedir={tmp_path}/data"),
        f"-Dlogback.configurationFile={config}/cassandra-logback.xml",
        *(f"-Dcassandra.jmx.local.port={ports['jmx']}", f"-javaagent:{lib}/jamm-0.4.0.jar"),
        *("-cp", f"{lib}/*", "org.apache.cassandra.service.CassandraDaemon"),
    )
    address = f"127.0.0.1:{ports['cql']}"

    def works(step: Callable[[], None]) -> bool:
        try:
            step()
        except AccessError:
            return False
        return True

    def adopt() -> None:
        cassandra_session.adopt(address, tls_root / "deploy", TABLE, "deploy")

    def enter() -> None:
        with cassandra_session.connect(address, tls_root / "deploy"):
            pass

    configuration.write_text(text + "authenticator: PasswordAuthenticator\n")
    first = process(*command)
    eventually(lambda: works(adopt), "Cassandra lets its first user in", timeout=200)
    first.terminate()
    first.wait(timeout=60)
    configuration.write_text(text + by_certificate)
    process(*command)
    eventually(lambda: works(enter), "Cassandra knows the deployer", timeout=200)
    migrate(address, tls_root)
    return address


def migrate(address: str, tls_root: Path) -> None:
    """The schema and everybody's grants, by the deployer's certificate."""
    migrations = load(CHECKOUT / "deploy" / "cassandra" / "migrations")
    with cassandra_session.connect(address, tls_root / "deploy") as session:
        session.execute(
            "CREATE KEYSPACE IF NOT EXISTS coinmesh WITH replication = "
            "{'class': 'SimpleStrategy', 'replication_factor': 1}"
        )
        session.set_keyspace("coinmesh")
        for migration in migrations:
            for statement in statements(migration.text):
                session.execute(statement, timeout=60)
        cassandra_roles.apply(session, TABLE)
        cassandra_roles.apply(session, TABLE)


def test_cassandra_holds_to_the_table(cassandra: str, tls_root: Path, bao: Any) -> None:
    insert = "INSERT INTO coinmesh.trades (instrument, bucket, shard, event_time, trade_id) "
    insert += "VALUES ('a', 0, 0, 0, 1)"
    select = "SELECT trade_id FROM coinmesh.trades"
    with cassandra_session.connect(cassandra, tls_root / "spark-stream") as spark:
        spark.execute(insert)
        for refused in (select, "CREATE ROLE x", "DROP TABLE coinmesh.bars_1m"):
            with pytest.raises(Unauthorized):
                spark.execute(refused)
    with cassandra_session.connect(cassandra, tls_root / "query-gateway") as gateway:
        assert [row.trade_id for row in gateway.execute(select)] == [1]
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
