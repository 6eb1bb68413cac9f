"""Digests of grants, used to restart components that read their grants only at the start."""

import hashlib
import json

from coinmesh_access.table import AccessTable


def digests(table: AccessTable) -> dict[str, str]:
    """Return a digest of all identities, of the Redis and S3 grants, and of each HTTP server."""
    services = sorted(table.services.items())
    parts: dict[str, object] = {
        "identities": [[name, one.listens, one.also_named] for name, one in services],
        "redis": [[name, one.redis.model_dump()] for name, one in services if one.uses_redis],
        "s3": [[name, one.s3.model_dump()] for name, one in services if one.uses_s3],
    }
    for server in sorted({server for _, one in services for server in one.http}):
        parts[f"http.{server}"] = [
            [name, one.http[server]] for name, one in services if server in one.http
        ]
    return {
        name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16]
        for name, part in parts.items()
    }
