"""Settings of the exchange simulator, read from `COINMESH_SIM_*` environment variables."""

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from coinmesh_simulators.exchange.freshness import LONGEST_LAG

MAX_SPEED = 10_000
"""Market seconds per wall second."""


class TimeMode(StrEnum):
    """How a capture's event times are published."""

    KEPT = "kept"
    NOW = "now"


class SimulatorSettings(BaseSettings):
    """Market, listeners and limits of the simulator.

    Durations are wall-clock seconds; `speed` is market seconds per wall second.
    """

    model_config = SettingsConfigDict(env_prefix="COINMESH_SIM_")

    listen: str = "127.0.0.1:9443"
    admin_listen: str = "127.0.0.1:9444"
    state_dir: Path = Path(".coinmesh/data/sim-exchange")
    capture: Path | None = None
    speed: float = Field(default=1.0, gt=0, le=MAX_SPEED)
    time: TimeMode = TimeMode.NOW
    symbols: str = "3"
    rate: float = Field(default=50.0, ge=0, le=100_000)
    seed: int = 1
    log_level: str = Field(default="INFO", validation_alias="COINMESH_LOG_LEVEL")
    history: int = Field(default=1_000_000, ge=1_000)

    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: In a mesh: the directory of the simulator's certificate, and the admitted services.
    tls_dir: Path | None = None
    clients: str = ""

    ping_interval: float = Field(default=20.0, gt=0)
    pong_timeout: float = Field(default=60.0, gt=0)
    connection_lifetime: float = Field(default=86_400.0, gt=0)
    messages_per_second: int = Field(default=5, ge=1)
    streams_per_connection: int = Field(default=1024, ge=1)
    connections_per_5m: int = Field(default=300, ge=1)
    weight_per_minute: int = Field(default=6_000, ge=1)
    raw_requests_per_5m: int = Field(default=300_000, ge=1)
    buffer_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)

    #: Disables the venue's rejections and delays, including those below that are not set.
    permissive: bool = False
    backend_timeout: float = Field(default=10.0, gt=0, le=600)
    database_lag: float = Field(default=1.0, ge=0, le=LONGEST_LAG)
    skew_ms: float = Field(default=20.0, ge=0, le=10_000)
    aligned_snapshots: bool = False
    deep_levels: int = Field(default=6_000, ge=0, le=100_000)
    control_bytes: int = Field(default=8_192, ge=0)
    flat_errors: bool = True

    @model_validator(mode="after")
    def _permit(self) -> Self:
        lenient = {
            "database_lag": 0.0,
            "skew_ms": 0.0,
            "aligned_snapshots": True,
            "deep_levels": 0,
            "control_bytes": 0,
        }
        if self.permissive:
            for name in lenient.keys() - self.model_fields_set:
                setattr(self, name, lenient[name])
        return self

    @field_validator("capture", "tls_cert", "tls_key", "tls_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


def split_address(address: str) -> tuple[str, int]:
    """Return `host:port` as a pair; raise ValueError with the text when it is malformed."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not an address: write host:port, e.g. 127.0.0.1:9443")
    return host.strip("[]") or "127.0.0.1", int(port)
