"""Create the S3 buckets and verify that the store accepts, encrypts and returns objects."""

import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from coinmesh_audit.store import AnchorStore, AuditStoreSettings
from coinmesh_local.steps.errors import StepError
from meshkit.s3 import make_bucket, s3_client
from meshkit.settings import S3Settings

DEADLINE = 30.0
PROBE = ".coinmesh-probe"
#: Written once; readable as long as the store has the key that encrypted it.
CANARY = ".coinmesh-canary"
CANARY_BODY = b"encrypted with the key of the first start\n"
#: Longer than the retention of the audit topic.
ANCHOR_DAYS = 400


def create(settings: S3Settings) -> None:
    """Create the bucket and verify that it is usable and older objects are still readable.

    Raises:
        StepError: The bucket isn't usable in time, or the store has another encryption key.
    """
    endpoint, bucket = settings.s3_endpoint, settings.s3_bucket
    client = s3_client(settings)
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            _use(client, bucket)
            break
        except (BotoCoreError, ClientError) as error:
            # The S3 gateway answers before a volume server has joined its master.
            if time.monotonic() > deadline:
                raise StepError(f"bucket {bucket} at {endpoint} is not usable: {error}") from error
            time.sleep(0.5)
    try:
        same = _canary(client, bucket) == CANARY_BODY
    except (BotoCoreError, ClientError):
        same = False
    if not same:
        raise StepError(
            f"{endpoint}/{bucket}/{CANARY} can't be read though a new object can: the store has"
            " another key than the one that older objects are encrypted with; bring the first"
            " version of kv/seaweedfs/sse back into Vault and run `coinmesh restart seaweedfs`"
        )


def create_locked(settings: AuditStoreSettings) -> None:
    """Create the bucket whose objects are locked for `ANCHOR_DAYS`; Unavailable on failure."""
    AnchorStore(settings).create(ANCHOR_DAYS)


def _use(client: Any, bucket: str) -> None:
    """Create the bucket, then write, read and delete an object in it."""
    make_bucket(client, bucket)
    client.put_object(Bucket=bucket, Key=PROBE, Body=CANARY_BODY)
    client.get_object(Bucket=bucket, Key=PROBE)["Body"].read()
    client.delete_object(Bucket=bucket, Key=PROBE)


def _canary(client: Any, bucket: str) -> bytes:
    try:
        client.put_object(Bucket=bucket, Key=CANARY, Body=CANARY_BODY, IfNoneMatch="*")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "PreconditionFailed":
            raise
    return client.get_object(Bucket=bucket, Key=CANARY)["Body"].read()
