"""Rotate all static credentials while the mesh runs: `coinmesh rotate`.

Servers are updated before clients and accept the previous credentials until the next rotation.
"""

import json
import os
import signal
import time

import hvac
import requests
from botocore.exceptions import BotoCoreError, ClientError
from hvac.exceptions import VaultError
from redis import Redis

from coinmesh_access import credentials, files, redis_users, s3_identities, users
from coinmesh_access.credentials import Kind
from coinmesh_access.login import SETUP, explained
from coinmesh_access.table import AccessTable, load
from coinmesh_local import local_user, processes
from coinmesh_local.mesh import DEPLOY, Mesh
from coinmesh_local.steps import dispatch
from meshkit.errors import Unavailable
from meshkit.redis_options import redis_options
from meshkit.s3 import s3_client
from meshkit.settings import RedisSettings, S3Settings

#: The components that accept these credentials.
SERVERS = ("redis", "seaweedfs")
STORE_SECONDS = 20.0


def rotate(mesh: Mesh) -> list[str]:
    """Replace each Redis password and S3 key, and the key that signs users' tokens.

    Clients read their new credentials from files. After an interruption, run it again to complete
    it.

    Returns:
        The names of the replaced credentials.

    Raises:
        VaultUnavailableError: Vault is unreachable or rejects the request.
        Unavailable: A server isn't running or rejected the new credentials.
    """
    servers = processes.find(mesh.home.root)
    for name in SERVERS:
        if name not in servers:
            raise Unavailable("NO_SERVER", f"{name} doesn't run and can't be told; `coinmesh up`")
    table, place = load(), local_user.vault(mesh)
    client = place.login(mesh.home.secrets, SETUP)
    try:
        return _rotate(mesh, client, table)
    except (VaultError, requests.RequestException) as error:
        raise explained(error, "rotate", place.address) from error


def _rotate(mesh: Mesh, client: hvac.Client, table: AccessTable) -> list[str]:
    users.rotate_key(client)
    wanted = list(credentials.wanted(table))
    credentials.rotate_all(client, table, mesh.home.secrets)
    passwords = credentials.redis_passwords(client, table)
    files.write(mesh.home.run / "redis/users.acl", redis_users.acl_file(table, passwords))
    settings = dispatch.read(RedisSettings, mesh.settings())
    with Redis.from_url(settings.redis_url, **redis_options(settings)) as redis:
        redis.execute_command("ACL", "LOAD")
    keys = s3_identities.identities(table, credentials.s3_keys(client, table))
    files.write(mesh.home.run / "seaweedfs/s3-identities.json", json.dumps(keys, indent=2) + "\n")
    if leader := processes.find(mesh.home.root)["seaweedfs"].leader:
        os.kill(leader, signal.SIGHUP)
    for service, kind in sorted(wanted, key=lambda pair: pair[0] != DEPLOY):
        pair, *_ = credentials.read(client, service, kind)
        path = credentials.client_path(mesh.home.secrets, service, kind)
        files.write(path, credentials.client_file(kind, pair))
        if (service, kind) == (DEPLOY, Kind.S3):
            _until_the_store_takes_it(dispatch.read(S3Settings, mesh.settings()))
    return ["the key that signs tokens", *(f"{service}'s {kind}" for service, kind in wanted)]


def _until_the_store_takes_it(settings: S3Settings) -> None:
    """Wait until SeaweedFS accepts the new key: it doesn't report that it has read it."""
    deadline = time.monotonic() + STORE_SECONDS
    while True:
        try:
            s3_client(settings).head_bucket(Bucket=settings.s3_bucket)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "STORE_KEEPS_KEYS", f"{settings.s3_endpoint} takes no new key: {error}"
                ) from error
            time.sleep(0.2)
