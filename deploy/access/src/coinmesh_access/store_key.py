"""The key that the S3 store encrypts objects' keys with (SSE-S3): made once, kept in Vault.

It is never replaced: what was encrypted with another key can't be read any more.
"""

import secrets

import hvac
from hvac.exceptions import InvalidRequest

from coinmesh_access.credentials import MOUNT

SERVICE = "seaweedfs"
PATH = f"{SERVICE}/sse"


def ensure(client: hvac.Client) -> bool:
    """Make the key if there is none; True when it was made. A deleted one isn't made anew."""
    try:
        client.secrets.kv.v2.create_or_update_secret(
            PATH, {"kek": secrets.token_hex(32)}, cas=0, mount_point=MOUNT
        )
    except InvalidRequest:  # there is a version
        return False
    return True


def read(client: hvac.Client) -> str:
    """The key, 32 bytes in hexadecimal; InvalidPath when there is none."""
    answer = client.secrets.kv.v2.read_secret_version(
        PATH, mount_point=MOUNT, raise_on_deleted_version=True
    )
    return answer["data"]["data"]["kek"]
