"""An S3 client for operations that pyarrow's lacks: locks, encryption, conditional writes."""

from contextlib import suppress
from typing import Any, cast

import boto3
from botocore.config import Config

from meshkit.settings import S3Settings
from meshkit.tls import certificate_files


def s3_client(settings: S3Settings) -> Any:
    """Return boto3's client (untyped); calls wait at most 10 s per attempt, with three attempts."""
    credentials, files = settings.s3_credentials(), certificate_files(settings)
    return cast(Any, boto3).client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key.get_secret_value(),
        region_name="us-east-1",
        verify=str(files.roots) if files else None,
        config=Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"total_max_attempts": 3},
            s3={"addressing_style": "path"},
        ),
    )


def make_bucket(client: Any, name: str, **options: object) -> None:
    """Create a bucket that encrypts every object (SSE-S3), if there is none; boto3's errors.

    Args:
        client: Returned by `s3_client`.
        name: The bucket's name.
        options: Further arguments of CreateBucket.
    """
    there = client.exceptions
    with suppress(there.BucketAlreadyOwnedByYou, there.BucketAlreadyExists):
        client.create_bucket(Bucket=name, **options)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    client.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
