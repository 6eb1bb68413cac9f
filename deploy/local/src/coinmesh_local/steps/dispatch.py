"""The deploy steps by name."""

import json
from collections.abc import Mapping
from pathlib import Path

from coinmesh_local.paths import CHECKOUT
from coinmesh_local.steps.errors import StepError

NAMES = ("registry-storage", "topics", "schemas", "migrations", "bucket")


def run(name: str, settings: Mapping[str, str]) -> None:
    """Run a step; raises StepError with what to correct. Imports stay with their step."""
    try:
        _run(name, settings)
    except KeyError as error:
        raise StepError(f"{name}: the setting {error.args[0]} is missing") from error


def _run(name: str, settings: Mapping[str, str]) -> None:
    if name in ("topics", "registry-storage"):
        from coinmesh_local.steps import topics

        wanted = topics.mesh_topics() if name == "topics" else topics.REGISTRY
        topics.create(settings["COINMESH_KAFKA_BOOTSTRAP_SERVERS"], wanted)
    elif name == "schemas":
        from coinmesh_local.steps import schemas

        schemas.register_all(settings["COINMESH_SCHEMA_REGISTRY_URL"])
    elif name == "migrations":
        from coinmesh_local.steps import migrations

        migrations.apply(
            settings["COINMESH_CASSANDRA_CONTACT_POINTS"],
            settings["COINMESH_CASSANDRA_KEYSPACE"],
            CHECKOUT / "deploy" / "cassandra" / "migrations",
        )
    elif name == "bucket":
        from coinmesh_local.steps import bucket

        credentials = json.loads(Path(settings["COINMESH_S3_CREDENTIALS_FILE"]).read_text())
        bucket.create(settings["COINMESH_S3_ENDPOINT"], credentials, settings["COINMESH_S3_BUCKET"])
    else:
        raise StepError(f"there is no step {name!r}; there are: {', '.join(NAMES)}")
