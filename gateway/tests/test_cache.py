"""The cache of replies for charts, where it is switched on."""

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.component

VIEW = "/v1/instruments/a/bars:view?interval=1m"
# The service lets replies with an end time be kept, others not.
CLOSED = f"{VIEW}&end_time=2024-08-08T22:00:00Z"


@pytest.fixture(scope="module")
def cached(start_envoy: Any, start_gateway: Any, start_collector: Any) -> Iterator[Any]:
    backends = {"query-gateway": [start_gateway("1")], "collector-binance": [start_collector()]}
    yield start_envoy(backends, cache=True)
    for replicas in backends.values():
        replicas[0].stop()


def asked(envoy: Any) -> int:
    return len(envoy.backends["query-gateway"][0].double.asked)


def test_a_reply_that_may_be_kept_is_asked_for_once(cached: Any) -> None:
    before = asked(cached)
    replies = [cached.rest.get(f"{CLOSED}&page_size=1000") for _ in range(5)]
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert asked(cached) == before + 1


def test_another_query_is_another_reply(cached: Any) -> None:
    first, second = (cached.rest.get(f"{CLOSED}&page_size={limit}").json() for limit in (1, 2))
    assert (len(first["close"]), len(second["close"])) == (1, 2)


def test_a_reply_that_may_not_be_kept_is_asked_for_each_time(cached: Any) -> None:
    before = asked(cached)
    for _ in range(3):
        assert cached.rest.get(VIEW).status_code == 200
    assert asked(cached) == before + 3


def test_nothing_else_is_kept(cached: Any) -> None:
    before = asked(cached)
    for _ in range(3):
        assert cached.rest.get("/v1/instruments").status_code == 200
        assert cached.rest.get("/v1/stream?instruments=a").status_code == 200
    assert asked(cached) == before + 6


def test_errors_are_as_without_a_cache(cached: Any) -> None:
    response = cached.rest.get(f"{VIEW}&foo=1")
    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] == "INVALID_REQUEST"
    assert '"foo"' in response.json()["message"]
