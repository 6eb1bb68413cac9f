"""Several replicas of a service behind Envoy."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.component

I = "/v1/instruments"  # noqa: E741


@dataclass
class Pair:
    """Envoy before two replicas of query-gateway."""

    envoy: Any
    replicas: list[Any]

    def answering(self, calls: int) -> set[str]:
        """Which replicas answer so many calls, all of which succeed."""
        responses = [self.envoy.rest.get(I) for _ in range(calls)]
        assert {response.status_code for response in responses} == {200}
        return {response.json()["instruments"][0]["venue"] for response in responses}


@pytest.fixture
def pair(start_envoy: Any, start_gateway: Any, start_collector: Any) -> Iterator[Pair]:
    replicas, collector = [start_gateway("1"), start_gateway("2")], start_collector()
    yield Pair(start_envoy({"query-gateway": replicas, "collector-binance": [collector]}), replicas)
    for backend in (*replicas, collector):
        backend.stop()


def test_no_caller_notices_that_a_replica_dies_and_comes_back(
    pair: Pair, start_gateway: Any, eventually: Any
) -> None:
    assert pair.answering(10) == {"1", "2"}
    pair.replicas[0].stop()
    assert pair.answering(50) == {"2"}
    eventually("one is left", lambda: pair.envoy.healthy("query-gateway") == 1)
    pair.replicas[0] = start_gateway("1", pair.replicas[0].address.port)
    eventually("both answer again", lambda: pair.answering(4) == {"1", "2"})


def test_a_get_that_fails_on_its_way_is_tried_again(pair: Pair) -> None:
    for replica in pair.replicas:
        replica.double.failures = 1
    response = pair.envoy.rest.get(f"{I}/binance.FLAKY")
    assert (response.status_code, response.json()["name"]) == (200, "binance.FLAKY")


def test_a_get_is_not_tried_for_ever(pair: Pair) -> None:
    for replica in pair.replicas:
        replica.double.failures = 1000
    response = pair.envoy.rest.get(f"{I}/binance.FLAKY")
    assert (response.status_code, response.json()["code"]) == (503, 14)
    assert sum(len(replica.double.asked) for replica in pair.replicas) == 3


def test_a_change_that_a_service_has_seen_is_not_tried_again(envoy: Any) -> None:
    asked = envoy.backends["collector-binance"][0].double.asked
    before = len(asked)
    body = {"instrument": "binance.FLAKY"}
    assert envoy.rest.post("/v1/collectors/binance/subscriptions", json=body).status_code == 503
    assert len(asked) == before + 1
