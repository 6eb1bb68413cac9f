"""The raw archive's place on S3."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

from pyarrow import fs

from meshkit.settings import S3Settings
from meshkit.tls import certificate_files

RAW = "raw"


def connect(settings: S3Settings) -> fs.S3FileSystem:
    """A client for the object store."""
    credentials = settings.s3_credentials()
    url = urlsplit(settings.s3_endpoint)
    # The client library knows no client certificates: keys say who we are.
    files = certificate_files(settings)
    return fs.S3FileSystem(
        access_key=credentials.access_key,
        secret_key=credentials.secret_key.get_secret_value(),
        endpoint_override=url.netloc,
        scheme=url.scheme,
        region="us-east-1",
        connect_timeout=5,
        # A task that waits keeps the bars' tasks waiting: the query is what tries again.
        request_timeout=10,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        force_virtual_addressing=False,
        tls_ca_file_path=str(files.roots) if files else None,
    )


def raw_object(topic: str, partition: int, first: int, last: int, appended: int) -> str:
    """The key of an archive object.

    Args:
        topic: The topic.
        partition: The partition.
        first: Offset of the first record.
        last: Offset of the last record.
        appended: Append time of the first record, microseconds since the Unix epoch.
    """
    moment = datetime.fromtimestamp(appended // 1_000_000, UTC)
    return (
        f"{RAW}/{topic}/date={moment:%Y-%m-%d}/hour={moment:%H}/"
        f"{partition}-{first:020d}-{last:020d}.parquet"
    )


def schema_object(schema_id: int) -> str:
    """The key of a schema's text."""
    return f"{RAW}/_schemas/{schema_id}"


def reference_object(schema_id: int, name: str) -> str:
    """The key of the text of what a schema imports, named by its import path."""
    return f"{RAW}/_schemas/{schema_id}.imports/{name}"
