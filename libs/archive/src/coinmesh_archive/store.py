"""The archive's part of the bucket: manifests, replaced by conditional PUT, and objects; blocking.

Every method raises Unavailable if the object store doesn't answer or rejects the request.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError

from coinmesh_archive.manifest import Manifest, ManifestError, decode, encode
from meshkit.errors import FailedPrecondition, NotFound, Unavailable
from meshkit.s3 import s3_client
from meshkit.settings import S3Settings

RAW: Final = "raw"
_MANIFESTS: Final = "_manifests"
_DELETE_LIMIT: Final = 1_000
"""Maximum number of keys in one DeleteObjects request."""


class ManifestChanged(FailedPrecondition):
    """Another process has written the manifest since it was read."""


@dataclass(frozen=True)
class Stored:
    """A stored manifest; `etag` identifies its version."""

    manifest: Manifest
    etag: str


class ArchiveStore:
    """Manifests and objects below `raw/`."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings, self._keys = settings, settings.s3_credentials()
        self.bucket, self._endpoint = settings.s3_bucket, settings.s3_endpoint
        self._client = s3_client(settings)

    @property
    def _s3(self) -> Any:
        """Return a client with the current keys: boto3 keeps those of its creation."""
        if (keys := self._settings.s3_credentials()) != self._keys:
            self._client, self._keys = s3_client(self._settings), keys
        return self._client

    def topics(self) -> list[str]:
        """Return every topic that has a folder, with or without manifests."""
        pages = self._pages(f"{RAW}/", Delimiter="/")
        folders = (prefix["Prefix"] for page in pages for prefix in page.get("CommonPrefixes", ()))
        names = (folder.removeprefix(f"{RAW}/").rstrip("/") for folder in folders)
        return sorted(name for name in names if not name.startswith("_"))

    def dates(self, topic: str) -> list[str]:
        """Return the days that have a manifest, oldest first."""
        prefix = f"{RAW}/{topic}/{_MANIFESTS}/date="
        keys = (key for key, _ in self._keys_below(prefix))
        return sorted(key.removeprefix(prefix).removesuffix(".json.gz") for key in keys)

    def load(self, topic: str, date: str) -> Stored | None:
        """Return the manifest of a topic and day, None if there is none.

        Raises:
            ManifestError: It is damaged.
        """
        with self._errors(f"read the manifest of {topic} {date}"):
            try:
                answer = self._s3.get_object(Bucket=self.bucket, Key=manifest_key(topic, date))
                return Stored(decode(answer["Body"].read()), answer["ETag"])
            except ManifestError as error:
                raise ManifestError(
                    f"{topic} {date}: {error}; restore {manifest_key(topic, date)} from a copy"
                ) from error
            except ClientError as error:
                if _code(error) != "NoSuchKey":
                    raise
                return None

    def newest(self, topic: str) -> Stored | None:
        """Return the manifest of a topic's last day, None if there is none."""
        dates = self.dates(topic)
        return self.load(topic, dates[-1]) if dates else None

    def put(self, manifest: Manifest, etag: str | None) -> Stored:
        """Replace the version `etag` of a manifest, or create it for None.

        Raises:
            ManifestChanged: The stored version is another one.
        """
        data = encode(manifest)
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        key = manifest_key(manifest.topic, manifest.date)
        with self._errors(f"write the manifest of {manifest.topic} {manifest.date}"):
            try:
                answer = self._s3.put_object(Bucket=self.bucket, Key=key, Body=data, **condition)
                return Stored(manifest, answer["ETag"])
            except ClientError as error:
                if _code(error) not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
        # A retried request fails if the response to its successful first attempt was lost.
        stored = self.load(manifest.topic, manifest.date)
        if stored is not None and encode(stored.manifest) == data:
            return stored
        raise ManifestChanged(
            "MANIFEST_CHANGED",
            f"another process has written the manifest of {manifest.topic} {manifest.date}",
        )

    def objects(self, topic: str) -> Iterator[tuple[str, int]]:
        """Yield key and size of every parquet object of a topic, listed in a manifest or not."""
        for key, size in self._keys_below(f"{RAW}/{topic}/date="):
            if key.endswith(".parquet"):
                yield key, size

    def read(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises:
            NotFound: It doesn't exist.
        """
        with self._errors(f"read {key}"):
            try:
                return self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if _code(error) != "NoSuchKey":
                    raise
                raise NotFound("RAW_OBJECT_NOT_FOUND", f"there is no object {key}") from error

    def write(self, key: str, data: bytes) -> None:
        """Store an object."""
        with self._errors(f"write {key}"):
            self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored."""
        chosen = [{"Key": key} for key in keys]
        with self._errors("delete retired objects"):
            for start in range(0, len(chosen), _DELETE_LIMIT):
                part = {"Objects": chosen[start : start + _DELETE_LIMIT], "Quiet": True}
                answer = self._s3.delete_objects(Bucket=self.bucket, Delete=part)
                if errors := answer.get("Errors"):
                    raise Unavailable(
                        "S3_REFUSED", f"can't delete {errors[0]['Key']}: {errors[0]['Code']}"
                    )

    def _keys_below(self, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                yield item["Key"], item["Size"]

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        with self._errors(f"list {prefix}"):
            paginator = self._s3.get_paginator("list_objects_v2")
            yield from paginator.paginate(Bucket=self.bucket, Prefix=prefix, **options)

    @contextmanager
    def _errors(self, action: str) -> Generator[None]:
        """Convert S3's errors to Unavailable, with the action that failed."""
        place = f"the object store at {self._endpoint}, bucket {self.bucket}"
        try:
            yield
        except ClientError as error:
            raise Unavailable("S3_REFUSED", f"{place}: can't {action}: {_code(error)}") from error
        except BotoCoreError as error:
            name = type(error).__name__
            raise Unavailable("S3_UNREACHABLE", f"{place}: can't {action}: {name}") from error


def manifest_key(topic: str, date: str) -> str:
    """Return the key of the manifest of a topic and day."""
    return f"{RAW}/{topic}/{_MANIFESTS}/date={date}.json.gz"


def _code(error: ClientError) -> str:
    return str(cast(Any, error).response.get("Error", {}).get("Code", "unknown"))
