"""Kafka's administration API under its public names.

`confluent_kafka.admin` documents its imports as part of its API, but type checkers treat them as
private: the exception is made here, once.
"""
# pyright: reportPrivateImportUsage=false

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

__all__ = [
    "AclBinding",
    "AclBindingFilter",
    "AclOperation",
    "AclPermissionType",
    "AdminClient",
    "AlterConfigOpType",
    "ConfigEntry",
    "ConfigResource",
    "NewTopic",
    "ResourcePatternType",
    "ResourceType",
]
