"""RestClient against scripted answers and the simulated exchange, on a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes import BEGIN, Clock, rest_settings

from coinmesh_sources import rest
from coinmesh_sources.rest import RestClient
from collector_binance.exchange import HISTORY_PATH, rest_client
from meshkit.metrics import Metrics

DEPTH, TIME = "/api/v3/depth", "/api/v3/time"
HTML = "<html><body>Request blocked.</body></html>"


class Exchange:
    """A server that gives the next of its answers to each request, and 200 when none is left."""

    def __init__(self) -> None:
        self.answers: list[Callable[[web.Request], Any]] = []
        self.requests: list[web.Request] = []
        self.released = asyncio.Event()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    def add(self, status: int, body: str = "{}", **headers: str) -> None:
        """Queue an answer; `Retry_After` is the header Retry-After."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(lambda _: web.Response(status=status, text=body, headers=named))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if not self.answers:
            return web.json_response({"served": True})
        answer = self.answers.pop(0)(request)
        if answer is None:
            await self.released.wait()
            return web.Response()
        return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_rest(monkeypatch)


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    exchange = Exchange()
    async with exchange.server:
        yield exchange
        exchange.released.set()


@pytest.fixture
async def client(exchange: Exchange, clock: Clock) -> AsyncIterator[RestClient]:
    async with rest_client(rest_settings(exchange.url), Metrics()) as client:
        yield client


async def test_answer_has_query_status_body_and_times(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    def slowly(_: web.Request) -> web.Response:
        clock.now += 2
        return web.Response(text="body")

    exchange.answers.append(slowly)
    answer = await client.get(DEPTH, {"symbol": "BTCUSDT", "limit": 5}, 5)
    target = f"GET {DEPTH}?symbol=BTCUSDT&limit=5"
    assert (answer.context, answer.status, answer.body) == (target, 200, b"body")
    assert (answer.receive_ns, answer.round_trip_ns) == (6002 * 10**9, 2 * 10**9)
    (request,) = exchange.requests
    assert f"GET {request.path_qs}" == target
    assert request.headers["X-MBX-TIME-UNIT"] == "MICROSECOND"
    assert clock.sleeps == []


async def test_path_without_arguments_has_no_query(client: RestClient, exchange: Exchange) -> None:
    assert (await client.get("/api/v3/time", {}, 1)).context == "GET /api/v3/time"
    assert exchange.requests[0].path_qs == "/api/v3/time"


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "7", 7.0),
        (418, "90", 90.0),
        (403, "3", 3.0),
        (429, "", 5.0),
        (418, "", 120.0),
        (403, "", 60.0),
        (451, "", 300.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 5.0),
        (429, "-1", 5.0),
        (429, "1.5", 5.0),
        (429, "²", 5.0),
    ],
)
async def test_refusal_is_waited_out(
    client: RestClient,
    exchange: Exchange,
    clock: Clock,
    status: int,
    retry_after: str,
    seconds: float,
) -> None:
    exchange.add(status, HTML, Retry_After=retry_after)
    answer = await client.get(DEPTH, {}, 5)
    assert (answer.status, answer.body) == (200, b'{"served": true}')
    # The first delay is the backoff's; the rest of the refusal's time follows it.
    assert clock.sleeps == [0.25, pytest.approx(seconds - 0.25)]
    assert len(exchange.requests) == 2


async def test_refusal_lasts_whatever_the_wall_clock_is_set_to(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    def refuse(_: web.Request) -> web.Response:
        clock.set_forward = 3600.0
        return web.Response(status=418, headers={"Retry-After": "100"})

    exchange.answers.append(refuse)
    await client.get(DEPTH, {}, 5)
    clock.set_forward = -3600.0
    await client.get(DEPTH, {}, 5)
    assert clock.sleeps == [0.25, 99.75]


async def test_refusal_delays_other_requests(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    exchange.add(418, Retry_After="100")
    refused = asyncio.create_task(client.get(DEPTH, {}, 5))
    while not clock.sleeps:  # noqa: ASYNC110 (nothing notifies)
        await asyncio.sleep(0)
    clock.now = BEGIN
    await client.get("/api/v3/time", {}, 1)
    assert 100.0 in clock.sleeps
    assert (await refused).status == 200


async def test_shorter_refusal_does_not_end_a_longer_one(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    for status, seconds in ((418, "100"), (429, "1")):
        exchange.add(status, Retry_After=seconds)
    both = [client.get(path, {}, 1) for path in (DEPTH, "/api/v3/time")]
    await asyncio.gather(*both)
    assert clock.now >= BEGIN + 100
    assert len(exchange.requests) == 4


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_server_error_is_retried_with_backoff(
    client: RestClient, exchange: Exchange, clock: Clock, status: int
) -> None:
    for _ in range(3):
        exchange.add(status, HTML)
    assert (await client.get(DEPTH, {}, 5)).status == 200
    assert clock.sleeps == [0.25, 0.5, 1.0]


async def test_server_error_that_lasts_is_the_answer(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    """Otherwise a worker waits for one host as long as that is down."""
    for _ in range(rest.ATTEMPTS):
        exchange.add(503, HTML)
    answer = await client.get(DEPTH, {}, 5)
    assert (answer.status, answer.body) == (503, HTML.encode())
    assert len(exchange.requests) == rest.ATTEMPTS
    assert clock.sleeps == [0.25, 0.5, 1.0]


async def test_unreachable_host_is_an_answer_with_its_reason(clock: Clock) -> None:
    async with rest_client(rest_settings("http://127.0.0.1:9"), Metrics()) as client:
        answer = await client.get(DEPTH, {"symbol": "BTCUSDT"}, 5)
    assert (answer.context, answer.status) == (f"GET {DEPTH}?symbol=BTCUSDT", rest.UNREACHABLE)
    assert b"127.0.0.1:9" in answer.body
    assert clock.sleeps == [0.25, 0.5, 1.0]


async def test_refusals_do_not_count_as_outages(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    for _ in range(2 * rest.ATTEMPTS):
        exchange.add(429, Retry_After="1")
    assert (await client.get(DEPTH, {}, 5)).status == 200


@pytest.mark.parametrize("status", [200, 400, 401, 404])
async def test_other_answer_is_final_whatever_its_body(
    client: RestClient, exchange: Exchange, clock: Clock, status: int
) -> None:
    exchange.add(status, HTML)
    answer = await client.get(DEPTH, {}, 5)
    assert (answer.status, answer.body) == (status, HTML.encode())
    assert len(exchange.requests) == 1
    assert clock.sleeps == []


async def test_reported_weight_delays_until_the_next_minute(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    client.budget.limit = 1000
    clock.now += 20
    exchange.add(200, X_MBX_USED_WEIGHT_1M="790")
    await client.get(DEPTH, {}, 5)
    await client.get("/api/v3/time", {}, 10)
    assert clock.sleeps == []
    await client.get("/api/v3/time", {}, 1)
    assert clock.sleeps == [pytest.approx(40.05)]
    assert client.budget.used(clock.now) == 1


async def test_weight_of_the_minute_before_does_not_count(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    clock.now += 59

    def slowly(_: web.Request) -> web.Response:
        clock.now += 2
        return web.Response(headers={"X-MBX-USED-WEIGHT-1M": "5900"})

    exchange.answers.append(slowly)
    await client.get(DEPTH, {}, 5)
    assert client.budget.used(clock.now) == 0


async def test_invalid_reported_weight_is_ignored(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    exchange.add(200, X_MBX_USED_WEIGHT_1M="²")
    assert (await client.get(DEPTH, {}, 5)).status == 200
    assert client.budget.used(clock.now) == 5


async def test_weight_of_every_attempt_is_counted(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    exchange.add(500)
    exchange.add(500)
    await client.get(DEPTH, {}, 50)
    assert client.budget.used(clock.now) == 150


async def test_request_heavier_than_the_limit_is_sent(
    client: RestClient, exchange: Exchange, clock: Clock
) -> None:
    client.budget.limit = 10
    assert (await client.get(DEPTH, {}, 50)).status == 200
    assert clock.sleeps == []


async def test_answer_that_does_not_come_is_requested_again(
    exchange: Exchange, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    exchange.answers.append(lambda _: None)
    async with rest_client(rest_settings(exchange.url), Metrics()) as client:
        answer = await client.get(DEPTH, {}, 5)
    assert answer.body == b'{"served": true}'
    # A slow machine may need more than two attempts.
    assert len(exchange.requests) >= 2
    assert clock.sleeps[0] == 0.25


async def test_history_is_requested_from_its_own_host(exchange: Exchange, clock: Clock) -> None:
    history = Exchange()
    async with history.server:
        chosen = rest_settings(exchange.url, binance_history_url=history.url)
        async with rest_client(chosen, Metrics()) as client:
            await client.get(HISTORY_PATH, {"symbol": "BTCUSDT"}, 25)
            await client.get(DEPTH, {"symbol": "BTCUSDT"}, 5)
    assert [request.path for request in history.requests] == [HISTORY_PATH]
    assert [request.path for request in exchange.requests] == [DEPTH]


@pytest.mark.parametrize("status", [403, 451])
async def test_refusal_by_the_history_host_is_final(
    exchange: Exchange, clock: Clock, status: int
) -> None:
    """Otherwise books get no snapshot where only the market-data host serves."""
    history = Exchange()
    history.add(status, HTML)
    async with history.server:
        chosen = rest_settings(exchange.url, binance_history_url=history.url)
        async with rest_client(chosen, Metrics()) as client:
            refused = await client.get(HISTORY_PATH, {"symbol": "BTCUSDT"}, 25)
            assert (await client.get(DEPTH, {"symbol": "BTCUSDT"}, 5)).status == 200
    assert (refused.status, refused.body) == (status, HTML.encode())
    assert clock.sleeps == []


async def test_rate_limit_of_the_history_host_delays_all(exchange: Exchange, clock: Clock) -> None:
    history = Exchange()
    history.add(429, Retry_After="9")
    async with history.server:
        chosen = rest_settings(exchange.url, binance_history_url=history.url)
        async with rest_client(chosen, Metrics()) as client:
            assert (await client.get(HISTORY_PATH, {"symbol": "BTCUSDT"}, 25)).status == 200
    assert clock.sleeps == [0.25, 8.75]


@pytest.mark.parametrize(
    ("url", "history_url", "expected"),
    [
        ("https://data-api.binance.vision", None, "https://api.binance.com"),
        ("https://data-api.binance.vision", "https://api1.binance.com", "https://api1.binance.com"),
        ("https://api.binance.us", None, "https://api.binance.us"),
    ],
)
def test_history_host_follows_from_the_rest_host(
    url: str, history_url: str | None, expected: str
) -> None:
    assert rest_settings(url, binance_history_url=history_url).history_url == expected
