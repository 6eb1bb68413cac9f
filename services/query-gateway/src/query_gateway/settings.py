"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from coinmesh_audit.log import AuditSettings
from coinmesh_contracts.stored_trades import AHEAD_SECONDS
from meshkit.settings import (
    Address,
    CassandraSettings,
    HttpUrl,
    RedisSettings,
    ServiceSettings,
)


def parse_collectors(text: str) -> dict[str, str]:
    """Return names and addresses from "binance=host:port,…".

    Raises:
        ValueError: The text does not have this form.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = part.partition("=")
        if not equals or not name:
            raise ValueError("expected name=host:port, or several separated by commas")
        found[name] = str(Address.parse(address))
    return found


def _collectors(text: str) -> str:
    parse_collectors(text)
    return text


class GatewaySettings(ServiceSettings, AuditSettings, CassandraSettings, RedisSettings):
    """Settings of the query-gateway."""

    service_name: str = Field(
        "query-gateway", min_length=1, description="the service's name", examples=["query-gateway"]
    )
    collectors: Annotated[str, AfterValidator(_collectors)] = Field(
        "",
        description="the collectors, name=host:port separated by commas",
        examples=["binance=127.0.0.1:50061"],
    )
    vault_addr: HttpUrl | None = Field(
        None, description="the Vault that users log in at", examples=["https://127.0.0.1:18200"]
    )
    vault_ca: Path | None = Field(
        None,
        description="the authority of its certificate; the system's by default",
        examples=[".coinmesh/secrets/openbao/ca.crt"],
    )
    live_lookback_seconds: float = Field(
        90.0,
        ge=65,
        description="how far back the live topics are read at start; more than the 60 s between "
        "two snapshots of an order book",
        examples=["90"],
    )
    bars_lookback_seconds: float = Field(
        600.0,
        ge=330,
        description="how far back the bars are read at start; more than the 5 minutes in which a "
        "bar can be revised and a chart's life in the cache",
        examples=["600"],
    )
    chart_ttl_seconds: int = Field(
        10, ge=1, le=30, description="how long a chart stays in the cache", examples=["10"]
    )
    kept_trades: int = Field(
        2000, ge=100, description="trades kept per instrument in memory", examples=["2000"]
    )
    kept_events: int = Field(
        20_000, ge=100, description="events kept for readers who resume", examples=["20000"]
    )
    reader_queue: int = Field(
        2000, ge=10, description="events that may wait for one stream reader", examples=["2000"]
    )
    spark_ahead_seconds: float = Field(
        AHEAD_SECONDS,
        ge=0,
        description="how far a trade may lie ahead of its append to the log; as the Spark stream's",
        examples=["300"],
    )
    event_streams: int = Field(
        16, ge=1, description="event streams (/v1/events) at a time", examples=["16"]
    )
