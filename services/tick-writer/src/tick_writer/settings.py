"""The settings of tick-writer."""

from __future__ import annotations

from pydantic import Field

from coinmesh_contracts.stored_trades import AHEAD_SECONDS
from meshkit.settings import CassandraSettings, KafkaSettings, RegistrySettings, ServiceSettings


class TickWriterSettings(ServiceSettings, KafkaSettings, RegistrySettings, CassandraSettings):
    """Settings of tick-writer, in addition to those of every service."""

    service_name: str = Field(
        "tick-writer", min_length=1, description="the service's name", examples=["tick-writer"]
    )
    spark_ahead_seconds: float = Field(
        AHEAD_SECONDS,
        ge=0,
        description="how far a trade may lie ahead of its append to the log; as the Spark stream's",
        examples=["300"],
    )
