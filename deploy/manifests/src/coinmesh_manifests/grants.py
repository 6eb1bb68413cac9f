"""Grants of an identity in each component, as stated in manifests and the access table."""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from coinmesh_contracts import serving, topics

Names = tuple[str, ...]
Topics = Annotated[Names, AfterValidator(topics.expand)]
Tables = Annotated[Names, AfterValidator(serving.expand_tables)]


class Part(BaseModel):
    """A TOML table without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _prefixes(values: Names) -> Names:
    for value in values:
        if not value.endswith("/") or value.startswith("/"):
            raise ValueError(f"prefix {value!r} must end in / and not begin with it")
    return values


class KafkaAccess(Part):
    """Permissions of a service in Kafka; a name that ends in `*` is a prefix.

    A topic group of `coinmesh_contracts.topics`, such as `@market`, stands for its topics.
    """

    write: Topics = ()
    read: Topics = ()
    groups: Names = ()
    #: Other services' groups whose committed offsets it may read.
    progress: Names = ()
    transactional_ids: Names = ()
    configs: Topics = ()
    super: bool = False


class CassandraAccess(Part):
    """Tables of the keyspace that a service selects from and modifies; `*` is all of them.

    A table group of `coinmesh_contracts.serving`, such as `@bars`, stands for its tables.
    """

    select: Tables = ()
    modify: Tables = ()
    admin: bool = False


class RedisAccess(Part):
    """Commands and key patterns of a Redis user."""

    commands: Names = ()
    keys: Names = ()
    all: bool = False


class S3Access(Part):
    """Prefixes of the bucket, or of another one as `bucket:prefix/`; reading includes listing."""

    read: Annotated[Names, AfterValidator(_prefixes)] = ()
    write: Annotated[Names, AfterValidator(_prefixes)] = ()
    admin: bool = False


class VaultAccess(Part):
    """Permissions of a service in Vault beyond having its certificate signed."""

    read: Names = ()
    sign_audit: bool = False
    check_audit: bool = False


class HttpAccess(NamedTuple):
    """Permitted requests to an HTTP server: methods (empty: all) and a pattern of the path."""

    methods: tuple[str, ...]
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `METHOD|METHOD PATH` or `* PATH`; raise ValueError for anything else."""
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


class Grants(Part):
    """All permissions of one identity."""

    kafka: KafkaAccess = KafkaAccess()
    cassandra: CassandraAccess = CassandraAccess()
    redis: RedisAccess = RedisAccess()
    s3: S3Access = S3Access()
    vault: VaultAccess = VaultAccess()
    http: Mapping[str, Annotated[Names, AfterValidator(_requests)]] = {}

    @property
    def has_kafka_acls(self) -> bool:
        """Return whether ACLs apply, instead of super user permissions."""
        return self.kafka not in (KafkaAccess(), KafkaAccess(super=True))

    @property
    def uses_cassandra(self) -> bool:
        """Return whether it has a Cassandra role."""
        return self.cassandra != CassandraAccess()

    @property
    def uses_redis(self) -> bool:
        """Return whether it has a Redis user."""
        return self.redis != RedisAccess()

    @property
    def uses_s3(self) -> bool:
        """Return whether it has S3 keys."""
        return self.s3 != S3Access()
