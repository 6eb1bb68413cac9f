"""The access table: `access.toml` as typed data, checked when it is read."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from coinmesh_contracts import topics

#: deploy/access, where the table lies beside the code.
TABLE = Path(__file__).resolve().parents[2] / "access.toml"

Names = tuple[str, ...]


class AccessError(Exception):
    """The table is wrong; the message names file and entry and what to correct."""


def _prefixes(values: Names) -> Names:
    for value in values:
        if not value.endswith("/") or value.startswith("/"):
            raise ValueError(f"prefix {value!r} must end in / and not begin with it")
    return values


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaAccess(_Part):
    """What a service may do in Kafka; a name that ends in `*` is a prefix."""

    write: Names = ()
    read: Names = ()
    groups: Names = ()
    transactional_ids: Names = ()
    configs: Names = ()
    super: bool = False


class CassandraAccess(_Part):
    """Tables of the keyspace that a service selects from and modifies; `*` is all of them."""

    select: Names = ()
    modify: Names = ()
    admin: bool = False


class RedisAccess(_Part):
    """Commands and key patterns of a Redis user."""

    commands: Names = ()
    keys: Names = ()
    all: bool = False


class S3Access(_Part):
    """Prefixes of the bucket, or of another one as `bucket:prefix/`; reading covers listing."""

    read: Annotated[Names, AfterValidator(_prefixes)] = ()
    write: Annotated[Names, AfterValidator(_prefixes)] = ()
    admin: bool = False


class VaultAccess(_Part):
    """What a service may do in Vault beside having its certificate signed."""

    read: Names = ()
    sign_audit: bool = False
    check_audit: bool = False


class HttpAccess(NamedTuple):
    """Requests that an HTTP server takes: methods (none: all) and what its paths must match."""

    methods: tuple[str, ...]
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `METHOD|METHOD PATH` or `* PATH`; ValueError when it is neither."""
        methods, space, path = text.partition(" ")
        if (
            not space
            or not path.startswith("/")
            or not re.fullmatch(r"\*|[A-Z]+(\|[A-Z]+)*", methods)
        ):
            raise ValueError(f"request {text!r}: expected METHOD|METHOD /PATH or * /PATH")
        try:
            re.compile(path)
        except re.error as error:
            raise ValueError(f"request {text!r}: {error}") from error
        return cls(() if methods == "*" else tuple(methods.split("|")), path)


def _requests(values: Names) -> Names:
    for value in values:
        HttpAccess.parse(value)
    return values


class Service(_Part):
    """One identity."""

    description: str = Field(min_length=1)
    listens: bool = True
    also_named: Names = ()
    kafka: KafkaAccess = KafkaAccess()
    cassandra: CassandraAccess = CassandraAccess()
    redis: RedisAccess = RedisAccess()
    s3: S3Access = S3Access()
    vault: VaultAccess = VaultAccess()
    http: Mapping[str, Annotated[Names, AfterValidator(_requests)]] = {}

    @property
    def has_kafka_acls(self) -> bool:
        """Whether ACLs, not super user's rights, decide."""
        kafka = self.kafka
        return bool(
            kafka.write or kafka.read or kafka.groups or kafka.transactional_ids or kafka.configs
        )

    @property
    def uses_cassandra(self) -> bool:
        return self.cassandra != CassandraAccess()

    @property
    def uses_redis(self) -> bool:
        return self.redis != RedisAccess()

    @property
    def uses_s3(self) -> bool:
        return self.s3 != S3Access()


class AccessTable(_Part):
    """The whole table."""

    trust_domain: str = Field(pattern=r"^[a-z0-9.-]+$")
    keyspace: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    bucket: str = Field(pattern=r"^[a-z0-9.-]{3,63}$")
    component_topics: Names = ()
    services: Mapping[str, Service]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {*topics.BY_NAME, *self.component_topics}
        for name, service in self.services.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(f"service {name!r}: a name is lower-case letters, digits and -")
            kafka = service.kafka
            for topic in (*kafka.read, *kafka.write, *kafka.configs):
                if topic not in known and not topic.endswith("*"):
                    raise ValueError(
                        f"{name}: there is no topic {topic!r}; see coinmesh_contracts.topics"
                    )
            if kafka.super and service.has_kafka_acls:
                raise ValueError(f"{name}: kafka.super needs no topics or groups")
            if unknown := sorted(set(service.http) - set(self.services)):
                raise ValueError(f"{name}: http.{unknown[0]}: there is no such service")
            if service.redis.keys and not service.redis.commands:
                raise ValueError(f"{name}: redis.keys needs redis.commands")
        return self

    def service(self, name: str) -> Service:
        """The service `name`; AccessError lists those that there are."""
        try:
            return self.services[name]
        except KeyError:
            known = ", ".join(self.services)
            raise AccessError(f"{name!r} is not in the access table; there are: {known}") from None

    def spiffe_id(self, name: str) -> str:
        """The identity in the service's certificate."""
        return f"spiffe://{self.trust_domain}/svc/{name}"


def load(path: Path = TABLE) -> AccessTable:
    """Read the table; AccessError when it can't be read or contradicts itself."""
    try:
        return AccessTable.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise AccessError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise AccessError(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        ]
        raise AccessError("\n".join(lines)) from error
