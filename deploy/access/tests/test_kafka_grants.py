"""Kafka holds to the access table, for every service, topic and group."""

import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from coinmesh_access import (
    kafka_acls,
    table,
)
from coinmesh_contracts import topics
from coinmesh_local.testing import TestMesh, eventually
from meshkit.kafka import client_config
from meshkit.settings import KafkaSettings

pytestmark = pytest.mark.component
TABLE = table.load()
Start = Callable[..., subprocess.Popen[bytes]]
Configured = Callable[[str], dict[str, Any]]


@pytest.fixture
def kafka(mesh: TestMesh) -> Configured:
    """The mesh's own brokers; client configurations by service."""
    mesh.require("kafka-access", "topics", "registry-storage")

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
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: found.append(error))
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
        )
        if message.error():
            return message.error()
        consumer.commit(message=message, asynchronous=False)
    except KafkaException as error:
        return error.args[0]
    finally:
        consumer.close()
    return None


def is_applied(configuration: dict[str, Any]) -> bool:
    """Whether the cluster's ACLs are those of the table."""
    change = kafka_acls.apply(configuration, TABLE)
    return (change.create, change.delete) == ((), ())


def test_kafka_holds_to_the_table(kafka: Configured) -> None:
    # A broker tells of new ACLs a moment after the controller has taken them.
    eventually(lambda: is_applied(kafka("deploy")), "applying again changes nothing")

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
    described = as_gateway.describe_consumer_groups(["spark-kafka-source-1"])
    with pytest.raises(KafkaException) as failed:
        described["spark-kafka-source-1"].result(timeout=30)
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
        )
    finally:
        assert kafka_acls.apply(kafka("deploy"), TABLE).create


def rights(answer: "Future[Any]", refusal: int) -> set[str]:
    """What the broker says the asker may do with something, but for seeing that it is there."""
    try:
        operations = answer.result().authorized_operations or ()
    except KafkaException as error:
        if error.args[0].code() != refusal:
            raise
        return set()
    return {operation.name for operation in operations} - {"DESCRIBE"}


def may_write(configuration: dict[str, Any], transactional_id: str) -> bool:
    """Whether transactions may be written under an id."""
    producer = Producer({**configuration, "transactional.id": transactional_id})
    try:
        producer.init_transactions(60)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            raise
        return False
    return True


@pytest.mark.parametrize("name", [n for n in TABLE.services if not TABLE.services[n].kafka.super])
def test_a_service_may_do_with_each_topic_group_and_id_what_the_table_says(
    kafka: Configured, name: str
) -> None:
    """The brokers' own word for every operation, asked as that service."""
    access = TABLE.services[name].kafka
    as_service = AdminClient(kafka(name))

    def given(patterns: Iterable[str], resource: str) -> bool:
        return any(fnmatchcase(resource, pattern) for pattern in patterns)

    names = [topic.name for topic in topics.ALL] + list(TABLE.component_topics)
    asked = as_service.describe_topics(
        TopicCollection(names), include_authorized_operations=True, request_timeout=30
    )
    granted = {"READ": access.read, "WRITE": access.write, "DESCRIBE_CONFIGS": access.configs}
    refusal = KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert {topic: rights(answer, refusal) for topic, answer in asked.items()} == {
        topic: {right for right, patterns in granted.items() if given(patterns, topic)}
        for topic in names
    }
    groups = sorted(
        pattern.replace("*", "x")
        for service in TABLE.services.values()
        for pattern in service.kafka.groups
    )
    described = as_service.describe_consumer_groups(
        groups, include_authorized_operations=True, request_timeout=30
    )
    refusal = KafkaError.GROUP_AUTHORIZATION_FAILED
    assert {group: rights(answer, refusal) for group, answer in described.items()} == {
        group: {"READ"} if given(access.groups, group) else set() for group in groups
    }
    ids = sorted(
        pattern.replace("*", "-granted?")
        for service in TABLE.services.values()
        for pattern in service.kafka.transactional_ids
    )
    assert [each for each in ids if may_write(kafka(name), each)] == [
        each for each in ids if given(access.transactional_ids, each)
    ]
    cluster = as_service.describe_cluster(include_authorized_operations=True, request_timeout=30)
    assert rights(cluster, KafkaError.CLUSTER_AUTHORIZATION_FAILED) == set()
