"""The only static credentials: Redis passwords and S3 keys in Vault, two valid at a time.

kv/<service>/redis and kv/<service>/s3 hold `current` and, after a rotation, `previous`: servers
accept both, clients use `current`, and the next rotation drops `previous`.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import hvac
from hvac.exceptions import InvalidPath

from coinmesh_access.table import AccessTable

MOUNT = "kv"


class Kind(StrEnum):
    """The server that a credential is for."""

    REDIS = "redis"
    S3 = "s3"


def _fresh(kind: Kind, service: str) -> dict[str, str]:
    if kind is Kind.REDIS:
        return {"username": service, "password": secrets.token_urlsafe(32)}
    return {"access_key": secrets.token_hex(10), "secret_key": secrets.token_urlsafe(30)}


def wanted(table: AccessTable) -> Iterator[tuple[str, Kind]]:
    """Yield each service and kind for which the table requires credentials."""
    for name, entry in table.services.items():
        if entry.uses_redis:
            yield name, Kind.REDIS
        if entry.uses_s3:
            yield name, Kind.S3


def read(client: hvac.Client, service: str, kind: Kind) -> list[dict[str, str]]:
    """Return the valid credentials, the one to use first; empty when there are none."""
    data, _ = _read(client, service, kind)
    return [data[slot] for slot in ("current", "previous") if slot in data]


def ensure(client: hvac.Client, table: AccessTable) -> list[str]:
    """Create missing credentials and return their paths."""
    made: list[str] = []
    for service, kind in wanted(table):
        data, version = _read(client, service, kind)
        if "current" not in data:
            _write(client, service, kind, {"current": _fresh(kind, service)}, version)
            made.append(f"{service}/{kind}")
    return made


def rotate(client: hvac.Client, service: str, kind: Kind) -> dict[str, str]:
    """Create a new current credential; the previous one stays valid until the next rotation.

    Update the servers' files before clients use the new one. Of two concurrent rotations only one
    succeeds: the write is conditional on the version that was read.
    """
    data, version = _read(client, service, kind)
    fresh = _fresh(kind, service)
    rotated = {"current": fresh}
    if "current" in data:
        rotated["previous"] = data["current"]
    _write(client, service, kind, rotated, version)
    return fresh


def rotate_all(client: hvac.Client, table: AccessTable, secrets_dir: Path) -> None:
    """Call `rotate` for each credential whose client has the current one.

    A client with the previous one indicates an interrupted rotation: another one would drop the
    credential in use. The interrupted rotation is completed instead.
    """
    for service, kind in wanted(table):
        current, *_ = read(client, service, kind)
        path = client_path(secrets_dir, service, kind)
        if not path.exists() or path.read_text() == client_file(kind, current):
            rotate(client, service, kind)


def client_path(secrets_dir: Path, service: str, kind: Kind) -> Path:
    """Return the path of a client's credential file."""
    return secrets_dir / service / f"{kind}.json"


def redis_passwords(client: hvac.Client, table: AccessTable) -> dict[str, list[str]]:
    """Return every service's valid Redis passwords."""
    return {
        name: [pair["password"] for pair in read(client, name, Kind.REDIS)]
        for name, kind in wanted(table)
        if kind is Kind.REDIS
    }


def s3_keys(client: hvac.Client, table: AccessTable) -> dict[str, list[dict[str, str]]]:
    """Return every service's valid S3 key pairs."""
    return {name: read(client, name, Kind.S3) for name, kind in wanted(table) if kind is Kind.S3}


def client_file(kind: Kind, pair: Mapping[str, str]) -> str:
    """Return the text of a client's credential file; for S3 with accessKey and secretKey."""
    if kind is Kind.S3:
        found = {"accessKey": pair["access_key"], "secretKey": pair["secret_key"]}
    else:
        found = dict(pair)
    return json.dumps(found) + "\n"


def _read(client: hvac.Client, service: str, kind: Kind) -> tuple[dict[str, Any], int]:
    try:
        answer = client.secrets.kv.v2.read_secret_version(
            f"{service}/{kind}", mount_point=MOUNT, raise_on_deleted_version=True
        )
    except InvalidPath as error:
        deleted = (error.json or {}).get("data") if isinstance(error.json, dict) else None
        version = deleted["metadata"]["version"] if deleted else 0
        return {}, version
    return answer["data"]["data"], answer["data"]["metadata"]["version"]


def _write(
    client: hvac.Client, service: str, kind: Kind, data: Mapping[str, Any], version: int
) -> None:
    client.secrets.kv.v2.create_or_update_secret(
        f"{service}/{kind}", dict(data), cas=version, mount_point=MOUNT
    )
