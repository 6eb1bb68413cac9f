"""Settings: environment variables with the prefix COINMESH_, read once at process start.

A service combines `ServiceSettings` with the mixins it needs and adds its own fields. Every field
has a description and an example, from which the error for a wrong value is built.
"""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, cast

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from meshkit import logs

PREFIX = "COINMESH_"


class SettingsError(Exception):
    """A setting is missing or wrong; the message names the variable and the remedy."""


class Address(NamedTuple):
    """A network address; port 0 selects a free one when listening."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `host:port` or `[v6]:port`; the message of a ValueError names the problem."""
        host, colon, port = text.strip().rpartition(":")
        if not colon or not host:
            raise ValueError("expected host:port")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"port {port!r} is not a number from 0 to 65535")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _address(text: str) -> str:
    return str(Address.parse(text))


def _addresses(text: str) -> str:
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("expected host:port, or several separated by commas")
    return ",".join(_address(part) for part in parts)


def _url(*schemes: str) -> AfterValidator:
    def check(text: str) -> str:
        if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"expected a URL that begins with {schemes[0]}://")
        return text.rstrip("/")

    return AfterValidator(check)


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
    return level


ListenAddress = Annotated[str, AfterValidator(_address)]
AddressList = Annotated[str, AfterValidator(_addresses)]
HttpUrl = Annotated[str, _url("http", "https")]
RedisUrl = Annotated[str, _url("redis", "rediss", "unix")]
LogLevel = Annotated[str, AfterValidator(_log_level)]


class MeshSettings(BaseSettings):
    """Base of every settings class: the source of values, and settings of all connections."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    tls_dir: Path | None = Field(
        default=None,
        description="the directory whose current/ holds tls.key, tls.crt and ca.crt; "
        "unset means plaintext",
        examples=["/run/coinmesh/tls"],
    )
    insecure: bool = Field(
        default=False,
        description="1 to allow plaintext beyond the loopback interface",
        examples=["1"],
    )


class TelemetrySettings(MeshSettings):
    """Settings of logs and spans: the service's name and their destination."""

    service_name: str = Field(
        "coinmesh",
        min_length=1,
        description="the service's name in logs, metrics and traces",
        examples=["query-gateway"],
    )
    log_level: LogLevel = Field("INFO", description="the least level logged", examples=["INFO"])
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="where traces go by OTLP over gRPC (unset: nowhere)",
        examples=["http://127.0.0.1:4317"],
    )
    trace_sampling_ratio: float = Field(
        0.01, ge=0, le=1, description="the share of new traces that is kept", examples=["0.01"]
    )


class ServiceSettings(TelemetrySettings):
    """Settings of every service."""

    grpc_listen: ListenAddress = Field(
        "127.0.0.1:0", description="where gRPC listens", examples=["127.0.0.1:50051"]
    )
    metrics_listen: ListenAddress | None = Field(
        None,
        description="where Prometheus metrics are served (unset: nowhere)",
        examples=["127.0.0.1:9101"],
    )
    drain_grace_seconds: float = Field(
        5.0, ge=0, description="how long calls may take to finish at shutdown", examples=["5"]
    )
    default_deadline_seconds: float = Field(
        10.0, gt=0, description="the deadline of a unary call that brings none", examples=["10"]
    )


class KafkaSettings(MeshSettings):
    """Kafka's addresses."""

    kafka_bootstrap_servers: AddressList = Field(
        description="Kafka's addresses", examples=["127.0.0.1:9092"]
    )


class RegistrySettings(MeshSettings):
    """The Schema Registry's address."""

    schema_registry_url: HttpUrl = Field(
        description="the registry's Confluent-compatible API",
        examples=["http://127.0.0.1:8081/apis/ccompat/v7"],
    )
    schema_registry_wait_seconds: float = Field(
        60.0, ge=0, description="how long to wait for the registry at start", examples=["60"]
    )


class CassandraSettings(MeshSettings):
    """Cassandra's addresses and keyspace."""

    cassandra_contact_points: AddressList = Field(
        description="Cassandra's addresses", examples=["127.0.0.1:9042"]
    )
    cassandra_keyspace: str = Field(
        "coinmesh", pattern=r"^[a-z][a-z0-9_]*$", description="the keyspace", examples=["coinmesh"]
    )

    @property
    def cassandra_addresses(self) -> list[Address]:
        """Return the contact points, parsed."""
        return [Address.parse(part) for part in self.cassandra_contact_points.split(",")]


class RedisCredentials(NamedTuple):
    """A Redis user; the password's text is returned only by `get_secret_value`."""

    username: str
    password: SecretStr


class RedisSettings(MeshSettings):
    """Redis' address and credentials."""

    redis_url: RedisUrl = Field(description="Redis's URL", examples=["redis://127.0.0.1:6379/0"])
    redis_credentials_file: Path | None = Field(
        None,
        description='a file of mode 0600 with {"username": …, "password": …}; unset: none',
        examples=[".coinmesh/secrets/query-gateway/redis.json"],
    )

    def redis_credentials(self) -> RedisCredentials | None:
        """Read the user; SettingsError if the file is missing, malformed or open to others."""
        if self.redis_credentials_file is None:
            return None
        found = _secret_file(
            "REDIS_CREDENTIALS_FILE", self.redis_credentials_file, "username", "password"
        )
        return RedisCredentials(found["username"], SecretStr(found["password"]))


class S3Credentials(NamedTuple):
    """An S3 key pair; the secret's text is returned only by `get_secret_value`."""

    access_key: str
    secret_key: SecretStr


class S3Settings(MeshSettings):
    """The object store's address, credentials and bucket."""

    s3_endpoint: HttpUrl = Field(
        description="the object store's URL", examples=["http://127.0.0.1:8333"]
    )
    s3_credentials_file: Path = Field(
        description='a file of mode 0600 with {"accessKey": …, "secretKey": …}',
        examples=[".coinmesh/secrets/s3.json"],
    )
    s3_bucket: str = Field("coinmesh", description="the bucket", examples=["coinmesh"])

    def s3_credentials(self) -> S3Credentials:
        """Read the key pair; SettingsError if the file is missing, malformed or open to others."""
        found = _secret_file(
            "S3_CREDENTIALS_FILE", self.s3_credentials_file, "accessKey", "secretKey"
        )
        return S3Credentials(found["accessKey"], SecretStr(found["secretKey"]))


def _secret_file(name: str, path: Path, *keys: str) -> dict[str, str]:
    """Return the strings under `keys` in a JSON file that only its owner may read."""
    variable = PREFIX + name
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"{variable}: {path} is open to others; run chmod 600 {path}")
        document = cast(dict[str, str], json.loads(path.read_text()))
        return {key: document[key] for key in keys}
    except OSError as error:
        raise SettingsError(f"{variable}: can't read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        wanted = ", ".join(f'"{key}": …' for key in keys)
        raise SettingsError(f"{variable}: {path} must hold {{{wanted}}}") from error


S = TypeVar("S", bound=BaseSettings)


def read(settings_class: type[S]) -> S:
    """Read `settings_class` from the environment; SettingsError with a line per wrong value."""
    try:
        return settings_class()
    except ValidationError as error:
        lines = [_explain(settings_class, detail) for detail in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from error


def load(settings_class: type[S]) -> S:
    """Read settings as `read`, at program start: report an error and exit with status 2."""
    try:
        return read(settings_class)
    except SettingsError as error:
        logs.tell(__name__, str(error), logging.CRITICAL)
        raise SystemExit(2) from error


def _explain(settings_class: type[BaseSettings], detail: Any) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    prefix = str(settings_class.model_config.get("env_prefix", PREFIX))
    variable = f"{prefix}{name}".upper()
    field = settings_class.model_fields.get(name)
    if detail["type"] == "missing":
        problem = f"{variable} is not set"
    else:
        reason = str(detail["msg"]).removeprefix("Value error, ")
        secret = field is not None and "Secret" in str(field.annotation)
        shown = "its value" if secret else repr(detail["input"])
        problem = f"{variable}: {shown} is wrong: {reason}"
    return problem + _way_out(variable, field)


def _way_out(variable: str, field: FieldInfo | None) -> str:
    if field is None or not field.description:
        return ""
    example = f", for example {variable}={field.examples[0]}" if field.examples else ""
    return f"; set it to {field.description}{example}"
