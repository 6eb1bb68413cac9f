"""An in-memory archive for tests: the store's own code on a dictionary instead of S3."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from coinmesh_archive.store import ArchiveStore


class MemoryS3:
    """The S3 requests used by `ArchiveStore`.

    Attributes:
        objects: Each object's bytes by key.
        before_put: Called with each key before it is written; may raise.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before_put: Callable[[str], None] = lambda _key: None

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        """Return an object's bytes and tag."""
        del Bucket
        if Key not in self.objects:
            raise _error("NoSuchKey")
        data = self.objects[Key]
        return {"Body": io.BytesIO(data), "ETag": _tag(data)}

    def put_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Body: bytes,  # noqa: N803
        IfMatch: str | None = None,  # noqa: N803
        IfNoneMatch: str | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        """Write an object if its condition holds."""
        del Bucket
        self.before_put(Key)
        before = self.objects.get(Key)
        matches = IfMatch is None or (before is not None and _tag(before) == IfMatch)
        if not matches or (IfNoneMatch is not None and before is not None):
            raise _error("PreconditionFailed")
        self.objects[Key] = Body
        return {"ETag": _tag(Body)}

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        """Delete objects."""
        del Bucket
        for item in Delete["Objects"]:
            self.objects.pop(item["Key"], None)
        return {}

    def get_paginator(self, _operation: str) -> MemoryS3:
        """Return this object, which lists all keys on one page."""
        return self

    def paginate(
        self,
        *,
        Bucket: str,  # noqa: N803
        Prefix: str,  # noqa: N803
        Delimiter: str = "",  # noqa: N803
    ) -> Iterator[dict[str, Any]]:
        """Yield the keys with a prefix, or the folders below it, in order."""
        del Bucket
        keys = sorted(key for key in self.objects if key.startswith(Prefix))
        if not Delimiter:
            yield {"Contents": [{"Key": key, "Size": len(self.objects[key])} for key in keys]}
            return
        below = (key.removeprefix(Prefix).partition(Delimiter)[0] for key in keys)
        yield {"CommonPrefixes": [{"Prefix": f"{Prefix}{name}/"} for name in dict.fromkeys(below)]}


class MemoryStore(ArchiveStore):
    """An archive in memory.

    Attributes:
        s3: The in-memory S3.
    """

    def __init__(self) -> None:
        self.bucket, self._endpoint = "coinmesh", "memory"
        self.s3 = MemoryS3()

    @property
    def _s3(self) -> Any:
        return self.s3


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "request")
