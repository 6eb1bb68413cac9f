"""CollectorService: repairs on request."""

from typing import Any, cast

import pytest

from coinmesh_contracts.collector.v1 import collector_service_pb2 as pb
from coinmesh_sources.service import CollectorService
from meshkit.errors import MeshError, NotFound, Unavailable


class Source:
    """A source with one gap."""

    source = "v"
    channels = ("trade",)

    def __init__(self, *, is_running: bool = True) -> None:
        self.is_running = is_running
        self.retried: list[str] = []

    def retry_gap(self, gap_id: str) -> bool:
        self.retried.append(gap_id)
        return gap_id == "known"


async def retry(source: Source, gap_id: str, collector: str = "v") -> pb.RetryGapResponse:
    service = CollectorService(cast(Any, source), lambda: None, cast(Any, None))
    request = pb.RetryGapRequest(collector=collector, gap_id=gap_id)
    return await service.RetryGap(request, cast(Any, None))


async def test_retry_gap_reaches_the_source() -> None:
    source = Source()
    assert await retry(source, "known") == pb.RetryGapResponse()
    assert source.retried == ["known"]


@pytest.mark.parametrize(
    ("source", "collector", "kind", "reason"),
    [
        (Source(), "v", NotFound, "GAP_NOT_FOUND"),
        (Source(), "other", NotFound, "COLLECTOR_NOT_FOUND"),
        (Source(is_running=False), "v", Unavailable, "COLLECTOR_STARTING"),
    ],
)
async def test_retry_that_is_not_possible_is_rejected(
    source: Source, collector: str, kind: type[MeshError], reason: str
) -> None:
    with pytest.raises(kind) as exc_info:
        await retry(source, "unknown", collector)
    assert exc_info.value.reason == reason
