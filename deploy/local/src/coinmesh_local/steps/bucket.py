"""Creates the S3 bucket and shows that it takes and returns an object."""

import time
from collections.abc import Mapping

from pyarrow import fs

from coinmesh_local.steps.errors import StepError

DEADLINE = 30.0
PROBE = ".coinmesh-probe"


def create(endpoint: str, credentials: Mapping[str, str], bucket: str) -> None:
    """Make `bucket` exist and usable; StepError when the store does not come round in time."""
    scheme, _, address = endpoint.partition("://")
    store = fs.S3FileSystem(
        access_key=credentials["accessKey"],
        secret_key=credentials["secretKey"],
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
