"""The anchors' storage: an S3 bucket with object lock, which prevents changes and deletion.

The lock applies to versions: an object can be overwritten or hidden by a delete marker, but the
version written first can't be deleted until its retention ends. So the first version is valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field

from coinmesh_audit.anchors import PREFIX, object_name
from meshkit.errors import FailedPrecondition, Unavailable
from meshkit.s3 import make_bucket, s3_client
from meshkit.settings import S3Settings

_NAME = re.compile(rf"{re.escape(PREFIX)}(\d{{12}})\.json")


class AuditStoreSettings(S3Settings):
    """Settings of the anchors' storage."""

    audit_bucket: str = Field(
        "coinmesh-audit",
        pattern=r"^[a-z0-9.-]{3,63}$",
        description="the bucket with object lock that keeps the audit anchors",
        examples=["coinmesh-audit"],
    )


class AnchorExists(FailedPrecondition):
    """Another process has written this anchor."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One anchor's object.

    Attributes:
        number: The anchor's number.
        version: Its first version.
        tampered: Later changes of the object, in words; "" for none.
    """

    number: int
    version: str
    tampered: str


class AnchorStore:
    """The bucket; blocking. Every method raises Unavailable if the store fails."""

    def __init__(self, settings: AuditStoreSettings) -> None:
        self.bucket, self._endpoint = settings.audit_bucket, settings.s3_endpoint
        self._settings, self._keys = settings, settings.s3_credentials()
        self._client = s3_client(settings)

    @property
    def _s3(self) -> Any:
        """Return a client with the current keys: boto3 keeps those of its creation."""
        if (keys := self._settings.s3_credentials()) != self._keys:
            self._client, self._keys = s3_client(self._settings), keys
        return self._client

    def create(self, days: int) -> None:
        """Create the bucket with a default retention of `days` in compliance mode."""
        with _told(f"make the bucket {self.bucket} at {self._endpoint}"):
            make_bucket(self._s3, self.bucket, ObjectLockEnabledForBucket=True)
            rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}}
            self._s3.put_object_lock_configuration(
                Bucket=self.bucket,
                ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
            )

    def put(self, number: int, data: bytes) -> None:
        """Store an anchor; AnchorExists if there is one of its number."""
        with _told(f"store anchor {number} at {self._endpoint}"):
            try:
                self._s3.put_object(
                    Bucket=self.bucket, Key=object_name(number), Body=data, IfNoneMatch="*"
                )
            except ClientError as error:
                if _code(error) != "PreconditionFailed":
                    raise
                raise AnchorExists("ANCHOR_EXISTS", f"there is an anchor {number}") from error

    def listed(self, after: int = 0) -> list[Kept]:
        """Return every anchor above number `after` that was ever stored, ordered by number."""
        with _told(f"list the anchors at {self._endpoint}"):
            return sorted(self._listed(after), key=lambda kept: kept.number)

    def read(self, kept: Kept) -> bytes:
        """Return the first version's bytes."""
        with _told(f"read anchor {kept.number} at {self._endpoint}"):
            answer = self._s3.get_object(
                Bucket=self.bucket, Key=object_name(kept.number), VersionId=kept.version
            )
            return answer["Body"].read()

    def _listed(self, after: int) -> Iterator[Kept]:
        versions: dict[str, list[str]] = {}
        hidden: set[str] = set()
        pages = self._s3.get_paginator("list_object_versions").paginate(
            Bucket=self.bucket, Prefix=PREFIX, KeyMarker=object_name(after)
        )
        for page in pages:
            # Newest first within a key, also across pages.
            for version in page.get("Versions", ()):
                versions.setdefault(version["Key"], []).append(version["VersionId"])
            hidden |= {marker["Key"] for marker in page.get("DeleteMarkers", ())}
        for key, ids in versions.items():
            match = _NAME.fullmatch(key)
            if match is None or int(match[1]) <= after:
                continue
            tampered = "deleted" if key in hidden else "overwritten" if len(ids) > 1 else ""
            yield Kept(int(match[1]), ids[-1], tampered)


class _told:  # noqa: N801
    """Converts S3's errors to Unavailable, with the operation that failed."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClientError):
            raise Unavailable("S3_REFUSED", f"can't {self._what}: {_code(error)}") from error
        if isinstance(error, BotoCoreError):
            raise Unavailable(
                "S3_UNREACHABLE", f"can't {self._what}: {type(error).__name__}"
            ) from error


def _code(error: ClientError) -> str:
    return str(cast(Any, error).response.get("Error", {}).get("Code", "unknown"))
