"""What the archive does when the object store doesn't answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coinmesh_spark import object_store
from meshkit.errors import Unavailable
from meshkit.settings import S3Settings

SETTINGS = S3Settings(
    s3_endpoint="https://127.0.0.1:1", s3_bucket="coinmesh", s3_credentials_file=Path("none")
)


def restarting(times: int) -> Iterator[str]:
    """A store that can't be reached a number of times."""
    for _ in range(times):
        yield ""
    yield "stored"


def test_a_store_that_restarts_is_asked_again():
    asked = restarting(2)

    def request() -> str:
        if answer := next(asked):
            return answer
        raise OSError("Failed to connect")

    assert object_store.answered(request, SETTINGS) == "stored"


def test_a_store_that_stays_away_is_named():
    def request() -> str:
        raise OSError("Failed to\n  connect")

    with pytest.raises(
        Unavailable, match=r"https://127\.0\.0\.1:1, bucket coinmesh: Failed to connect"
    ):
        object_store.answered(request, SETTINGS, away_seconds=0.0)
