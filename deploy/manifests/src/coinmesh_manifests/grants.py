"""What an identity may do in each component; a manifest and the access table state it alike."""

import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from coinmesh_contracts import serving, topics

Names = tuple[str, ...]
Topics = Annotated[Names, AfterValidator(topics.expand)]
Tables = Annotated[Names, AfterValidator(serving.expand_tables)]


class Part(BaseModel):
    """A table of TOML whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _prefixes(values: Names) -> Names:
    for value in values:
        if not value.endswith("/") or value.startswith("/"):
            raise ValueError(f"prefix {value!r} must end in / and not begin with it")
    return values


class KafkaAccess(Part):
    """What a service may do in Kafka; a name that ends in `*` is a prefix.

    A topic group of `coinmesh_contracts.topics`, such as `@market`, stands for its topics.
    """

    write: Topics = ()
    read: Topics = ()
    groups: Names = ()
    #: Groups of others whose committed offsets it may read.
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
    """Prefixes of the bucket, or of another one as `bucket:prefix/`; reading covers listing."""

    read: Annotated[Names, AfterValidator(_prefixes)] = ()
    write: Annotated[Names, AfterValidator(_prefixes)] = ()
    admin: bool = False


class VaultAccess(Part):
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


class Grants(Part):
    """All that one identity may do."""

    kafka: KafkaAccess = KafkaAccess()
    cassandra: CassandraAccess = CassandraAccess()
    redis: RedisAccess = RedisAccess()
    s3: S3Access = S3Access()
    vault: VaultAccess = VaultAccess()
    http: Mapping[str, Annotated[Names, AfterValidator(_requests)]] = {}

    @property
    def has_kafka_acls(self) -> bool:
        """Whether ACLs, not super user's rights, decide."""
        return self.kafka not in (KafkaAccess(), KafkaAccess(super=True))

    @property
    def uses_cassandra(self) -> bool:
        """Whether it has a role there."""
        return self.cassandra != CassandraAccess()

    @property
    def uses_redis(self) -> bool:
        """Whether it has a user there."""
        return self.redis != RedisAccess()

    @property
    def uses_s3(self) -> bool:
        """Whether it has keys there."""
        return self.s3 != S3Access()
