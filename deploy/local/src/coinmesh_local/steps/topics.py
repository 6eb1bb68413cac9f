"""Create Kafka topics and align the settings of existing ones with the contracts' table."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaException

from coinmesh_contracts import topics as contract
from coinmesh_local.steps.errors import StepError
from meshkit.kafka import client_config, client_log
from meshkit.kafka_admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from meshkit.settings import KafkaSettings

TIMEOUT = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A topic's required state; settings that depend on the broker count are added on creation."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


#: Apicurio replays its journal from the first record at each start, so none may ever be deleted.
REGISTRY = tuple(
    Wanted(name, 1, {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"})
    for name in ("kafkasql-journal", "kafkasql-snapshots", "registry-events")
)


def mesh_topics() -> tuple[Wanted, ...]:
    """Return the mesh's own topics, from the contracts."""
    return tuple(Wanted(topic.name, topic.partitions, topic.config) for topic in contract.ALL)


def create(settings: KafkaSettings, wanted: Iterable[Wanted]) -> None:
    """Make every topic of `wanted` exist with its partitions and settings.

    The replication factor is 3 with three brokers or more, else 1.

    Raises:
        StepError: An existing topic has another partition count: a key must keep its partition.
    """
    bootstrap = settings.kafka_bootstrap_servers
    config = client_config(settings, "coinmesh-deploy") | {"socket.timeout.ms": 10_000}
    admin = AdminClient(config, logger=client_log())
    try:
        metadata = admin.list_topics(timeout=TIMEOUT)
    except KafkaException as error:
        raise StepError(f"Kafka at {bootstrap} does not answer: {error}") from error
    replication = 3 if len(metadata.brokers) >= 3 else 1
    durable = {"min.insync.replicas": "2" if replication == 3 else "1"}
    missing: list[NewTopic] = []
    existing: list[Wanted] = []
    for topic in wanted:
        found = metadata.topics.get(topic.name)
        if found is None:
            config = dict(topic.config) | durable
            missing.append(NewTopic(topic.name, topic.partitions, replication, config=config))
        elif len(found.partitions) != topic.partitions:
            raise StepError(
                f"topic {topic.name} has {len(found.partitions)} partitions, the contracts say "
                f"{topic.partitions}: keys would move; make a new topic version instead"
            )
        else:
            existing.append(topic)
    if missing:
        for name, future in admin.create_topics(missing, operation_timeout=TIMEOUT).items():
            _settle(f"create topic {name}", future)
            _log.info("created %s", name)
    if existing:
        _align(admin, existing, durable)


def _align(admin: AdminClient, topics: list[Wanted], durable: Mapping[str, str]) -> None:
    """Set the settings that differ on existing topics."""
    resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics}
    current = {
        resource.name: future.result(timeout=TIMEOUT)
        for resource, future in admin.describe_configs(list(resources.values())).items()
    }
    changed: list[ConfigResource] = []
    for topic in topics:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in {**topic.config, **durable}.items()
            if key not in current[topic.name] or current[topic.name][key].value != value
        ]
        if entries:
            names = ", ".join(entry.name for entry in entries)
            changed.append(
                ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
            )
            _log.info("setting %s of %s", names, topic.name)
    if changed:
        for resource, future in admin.incremental_alter_configs(changed).items():
            _settle(f"alter topic {resource.name}", future)


def _settle(what: str, future: object) -> None:
    try:
        future.result(timeout=TIMEOUT)  # type: ignore[attr-defined]
    except KafkaException as error:
        raise StepError(f"could not {what}: {error}") from error
