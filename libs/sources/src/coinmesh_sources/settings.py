"""Settings common to all collectors."""

from __future__ import annotations

from coinmesh_audit.log import AuditSettings
from meshkit.settings import ServiceSettings


class SourceSettings(ServiceSettings, AuditSettings):
    """A service with Kafka, the registry and an audit log."""
