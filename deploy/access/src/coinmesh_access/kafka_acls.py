"""Kafka ACLs required by the access table, and their application to the cluster."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaException

from coinmesh_access.table import AccessError, AccessTable
from meshkit.kafka import client_log
from meshkit.kafka_admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

TIMEOUT = 30.0

Resource = Literal["topic", "group", "transactional_id"]
Operation = Literal["READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"]
_RESOURCES: Mapping[Resource, ResourceType] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional_id": ResourceType.TRANSACTIONAL_ID,
}


@dataclass(frozen=True, order=True)
class Acl:
    """One permission of one service, from any host."""

    service: str
    resource: Resource
    name: str
    prefixed: bool
    operation: Operation

    def binding(self) -> AclBinding:
        """Return the ACL as the admin client's type."""
        return AclBinding(
            _RESOURCES[self.resource],
            self.name,
            ResourcePatternType.PREFIXED if self.prefixed else ResourcePatternType.LITERAL,
            f"User:{self.service}",
            "*",
            AclOperation[self.operation],
            AclPermissionType.ALLOW,
        )


def acls(table: AccessTable) -> list[Acl]:
    """Return all ACLs of the table, sorted.

    READ and WRITE imply DESCRIBE, and WRITE on a topic permits idempotent producers (KIP-679).
    """
    found: set[Acl] = set()
    for service, entry in table.services.items():
        kafka = entry.kafka
        wanted: tuple[tuple[Resource, Operation, tuple[str, ...]], ...] = (
            ("topic", "READ", kafka.read),
            ("topic", "WRITE", kafka.write),
            ("group", "READ", kafka.groups),
            ("group", "DESCRIBE", kafka.progress),
            ("transactional_id", "WRITE", kafka.transactional_ids),
            ("topic", "DESCRIBE_CONFIGS", kafka.configs),
        )
        for resource, operation, names in wanted:
            for name in names:
                prefixed = name.endswith("*")
                bare = name.removesuffix("*")
                found.add(Acl(service, resource, bare, prefixed, operation))
    return sorted(found)


@dataclass(frozen=True)
class Change:
    """The ACLs to create and to delete."""

    create: tuple[AclBinding, ...]
    delete: tuple[AclBinding, ...]


def change(wanted: Iterable[Acl], present: Iterable[AclBinding]) -> Change:
    """Return the ACLs to create and to delete, including ACLs of unknown origin."""
    goal = {acl.binding() for acl in wanted}
    known = set(present)
    return Change(
        tuple(sorted(goal - known, key=str)),
        tuple(sorted(known - goal, key=str)),
    )


def apply(client_config: Mapping[str, Any], table: AccessTable) -> Change:
    """Make the cluster's ACLs equal to the table's; AccessError when Kafka rejects it.

    New ACLs are created before old ones are deleted, so that no retained permission is interrupted.
    """
    admin = AdminClient({**client_config, "socket.timeout.ms": 10_000}, logger=client_log())
    present = _settle(
        "read ACLs",
        admin.describe_acls(
            _filter(
                ResourceType.ANY,
                None,
                ResourcePatternType.ANY,
                None,
                None,
                AclOperation.ANY,
                AclPermissionType.ANY,
            )
        ),
    )
    needed = change(acls(table), present)
    if needed.create:
        for binding, future in admin.create_acls(list(needed.create)).items():
            _settle(f"create {binding}", future)
    if needed.delete:
        filters = [
            _filter(
                b.restype,
                b.name,
                b.resource_pattern_type,
                b.principal,
                b.host,
                b.operation,
                b.permission_type,
            )
            for b in needed.delete
        ]
        for which, future in admin.delete_acls(filters).items():
            _settle(f"delete {which}", future)
    return needed


def _filter(*fields: Any) -> AclBindingFilter:
    """Return a filter of an ACL's seven fields; None, which the client's types omit, is any."""
    return AclBindingFilter(*fields)


def _settle(what: str, future: "Future[Any]") -> Any:
    try:
        return future.result(timeout=TIMEOUT)
    except (KafkaException, TimeoutError) as error:
        raise AccessError(f"Kafka: could not {what}: {error}") from error
