"""`python -m coinmesh_local.steps NAME`: runs one deploy step with settings from COINMESH_…"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from coinmesh_local.paths import CHECKOUT
from coinmesh_local.steps.errors import StepError


def run(name: str, settings: Mapping[str, str]) -> None:
    """Run a step; raises StepError with what to correct. Imports stay with their step."""
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
        raise StepError(f"there is no step {name!r}")


def main() -> int:
    """Exit status 0 when the step's result holds, 1 when it could not be reached."""
    try:
        run(sys.argv[1], os.environ)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"error: {error.args[0]} is not set", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
