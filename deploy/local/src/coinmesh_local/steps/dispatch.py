"""The deploy steps by name."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from coinmesh_local.paths import CHECKOUT
from coinmesh_local.steps.errors import StepError
from meshkit.settings import (
    PREFIX,
    CassandraSettings,
    KafkaSettings,
    MeshSettings,
    RegistrySettings,
    S3Settings,
)

S = TypeVar("S", bound=MeshSettings)
NAMES = ("registry-storage", "topics", "schemas", "migrations", "bucket", "log-index")


def run(name: str, settings: Mapping[str, str]) -> None:
    """Run a step; raise StepError with the correction. Each step imports only its own modules."""
    if name in ("topics", "registry-storage"):
        from coinmesh_local.steps import topics

        wanted = topics.mesh_topics() if name == "topics" else topics.REGISTRY
        topics.create(read(KafkaSettings, settings), wanted)
    elif name == "schemas":
        from coinmesh_local.steps import schemas

        schemas.register_all(read(RegistrySettings, settings))
    elif name == "migrations":
        from coinmesh_local.steps import migrations

        migrations.apply(
            read(CassandraSettings, settings), CHECKOUT / "deploy" / "cassandra" / "migrations"
        )
    elif name == "bucket":
        from coinmesh_audit.store import AuditStoreSettings
        from coinmesh_local.steps import bucket

        bucket.create(read(S3Settings, settings))
        bucket.create_locked(read(AuditStoreSettings, settings))
    elif name == "log-index":
        from coinmesh_local.steps import log_index

        log_index.prepare(read(log_index.LogStoreSettings, settings))
    else:
        raise StepError(f"there is no step {name!r}; there are: {', '.join(NAMES)}")


def read(kind: type[S], settings: Mapping[str, str]) -> S:
    """Return the settings of `kind` from COINMESH_… variables; StepError names an invalid one."""
    names = {name: PREFIX + name.upper() for name in kind.model_fields}
    try:
        return kind(**{n: settings[key] for n, key in names.items() if settings.get(key)})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise StepError(f"the setting {names[str(first['loc'][0])]}: {first['msg']}") from error
