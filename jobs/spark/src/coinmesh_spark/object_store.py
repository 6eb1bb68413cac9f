"""Access to the raw archive on S3."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pyarrow import fs

from coinmesh_archive.store import RAW
from meshkit.backoff import Backoff
from meshkit.errors import Unavailable
from meshkit.settings import S3Settings
from meshkit.tls import certificate_files

AWAY_SECONDS = 20.0
T = TypeVar("T")


def connect(settings: S3Settings) -> Any:
    """Return pyarrow's client of the object store (it has no types)."""
    credentials = settings.s3_credentials()
    url = urlsplit(settings.s3_endpoint)
    # The client library does not support client certificates: keys authenticate the client.
    files = certificate_files(settings)
    return fs.S3FileSystem(
        access_key=credentials.access_key,
        secret_key=credentials.secret_key.get_secret_value(),
        endpoint_override=url.netloc,
        scheme=url.scheme,
        region="us-east-1",
        connect_timeout=5,
        # `answered` retries.
        request_timeout=10,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        force_virtual_addressing=False,
        tls_ca_file_path=str(files.roots) if files else None,
    )


def answered(
    request: Callable[[], T], settings: S3Settings, away_seconds: float = AWAY_SECONDS
) -> T:
    """Return the store's answer; retry while it restarts, as for a renewed certificate.

    A failing task would terminate worker processes, and the bars' tasks would wait for new ones.

    Raises:
        Unavailable: It has been unavailable for `away_seconds`, or rejects requests.
    """
    deadline, backoff = time.monotonic() + away_seconds, Backoff(base=0.5, cap=2.0)
    while True:
        try:
            return request()
        except OSError as error:
            if time.monotonic() >= deadline:
                where = f"{settings.s3_endpoint}, bucket {settings.s3_bucket}"
                raise Unavailable(
                    "S3_UNAVAILABLE",
                    f"the object store at {where}: {' '.join(str(error).split())[:300]}",
                ) from error
            time.sleep(next(backoff))


def schema_object(schema_id: int) -> str:
    """Return the key of a schema's text."""
    return f"{RAW}/_schemas/{schema_id}"


def reference_object(schema_id: int, name: str) -> str:
    """Return the key of an imported schema's text, by its import path."""
    return f"{RAW}/_schemas/{schema_id}.imports/{name}"
