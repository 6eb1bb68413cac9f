"""The S3 store's key that encrypts objects' keys (SSE-S3): created once, stored in Vault.

It is never replaced: objects encrypted with another key become unreadable.
"""

import secrets

import hvac
from hvac.exceptions import InvalidRequest

from coinmesh_access.credentials import MOUNT

SERVICE = "seaweedfs"
PATH = f"{SERVICE}/sse"


def ensure(client: hvac.Client) -> bool:
    """Create the key if there is none and return whether it did; a deleted one isn't replaced."""
    try:
        client.secrets.kv.v2.create_or_update_secret(
            PATH, {"kek": secrets.token_hex(32)}, cas=0, mount_point=MOUNT
        )
    except InvalidRequest:  # a version exists
        return False
    return True


def read(client: hvac.Client) -> str:
    """Return the key, 32 bytes in hexadecimal; InvalidPath when there is none."""
    answer = client.secrets.kv.v2.read_secret_version(
        PATH, mount_point=MOUNT, raise_on_deleted_version=True
    )
    return answer["data"]["data"]["kek"]
