"""Kafka's administration API under its public names.

`confluent_kafka.admin` states that its imports are part of its API, but imports them in a form that
type checkers take for private: the exception is made here, once.
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
