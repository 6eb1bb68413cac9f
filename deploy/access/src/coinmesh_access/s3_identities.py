"""SeaweedFS identities: each service's keys and the prefixes that it may read and write."""

from collections.abc import Mapping, Sequence
from typing import Any

from coinmesh_access.table import AccessError, AccessTable

#: An access key and its secret key.
Keys = Mapping[str, str]


def actions(table: AccessTable, service: str) -> list[str]:
    """Return SeaweedFS's actions for a service: `Read:bucket/raw/*` and so on."""
    access = table.service(service).s3
    if access.admin:
        return ["Admin", "Read", "List", "Tagging", "Write"]
    found: list[str] = []
    for prefix in access.read:
        found += [f"{verb}:{place(table, prefix)}" for verb in ("Read", "List")]
    found += [f"Write:{place(table, prefix)}" for prefix in access.write]
    return found


def place(table: AccessTable, prefix: str) -> str:
    """Return `raw/` as `bucket/raw/*`, and `other:raw/` as `other/raw/*`."""
    bucket, colon, rest = prefix.rpartition(":")
    return f"{bucket if colon else table.bucket}/{rest}*"


def identities(table: AccessTable, keys: Mapping[str, Sequence[Keys]]) -> dict[str, Any]:
    """Return the content of `-s3.config`; without an `anonymous` identity anonymous access fails.

    Args:
        table: The access table.
        keys: The valid key pairs of each service that uses S3, two during a rotation.
    """
    found: list[dict[str, Any]] = []
    for name, entry in table.services.items():
        if not entry.uses_s3:
            continue
        valid = keys.get(name, ())
        if not valid:
            raise AccessError(f"S3: {name} has no keys; run `coinmesh-vault setup`")
        found.append(
            {
                "name": name,
                "credentials": [
                    {"accessKey": pair["access_key"], "secretKey": pair["secret_key"]}
                    for pair in valid
                ],
                "actions": actions(table, name),
            }
        )
    return {"identities": found}
