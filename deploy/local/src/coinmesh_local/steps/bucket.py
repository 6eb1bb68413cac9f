"""Creates the S3 buckets and shows that the store takes and returns an object."""

import time

from pyarrow import fs

from coinmesh_local.steps.errors import StepError
from meshkit.audit_store import AnchorStore, AuditStoreSettings
from meshkit.settings import S3Settings
from meshkit.tls import certificate_files

DEADLINE = 30.0
PROBE = ".coinmesh-probe"
#: Longer than the audit topic keeps its records.
ANCHOR_DAYS = 400


def create(settings: S3Settings) -> None:
    """Make the bucket exist and usable; StepError when the store does not come round in time."""
    endpoint, bucket = settings.s3_endpoint, settings.s3_bucket
    credentials = settings.s3_credentials()
    files = certificate_files(settings)
    scheme, _, address = endpoint.partition("://")
    store = fs.S3FileSystem(
        access_key=credentials.access_key,
        secret_key=credentials.secret_key.get_secret_value(),
        tls_ca_file_path=str(files.roots) if files else None,
        endpoint_override=address,
        scheme=scheme,
        region="us-east-1",
        allow_bucket_creation=True,
        connect_timeout=5,
        request_timeout=10,
    )
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            store.create_dir(bucket)
            with store.open_output_stream(f"{bucket}/{PROBE}") as stream:
                stream.write(b"ok")
            store.delete_file(f"{bucket}/{PROBE}")
            return
        except OSError as error:
            # The S3 gateway answers before a volume server has joined its master.
            if time.monotonic() > deadline:
                raise StepError(f"bucket {bucket} at {endpoint} is not usable: {error}") from error
            time.sleep(0.5)


def create_locked(settings: AuditStoreSettings) -> None:
    """Make the bucket whose objects nobody can delete for `ANCHOR_DAYS`; Unavailable if not."""
    AnchorStore(settings).create(ANCHOR_DAYS)
