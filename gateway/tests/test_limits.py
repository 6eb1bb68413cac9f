"""Limits on time and connections: who is slow or takes too many is cut off, nobody else."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coinmesh_gateway.settings import Limits

pytestmark = pytest.mark.component

CONNECTIONS = 3
HEAD = b"POST /v1/collectors/binance/subscriptions HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module")
def hurried(
    start_envoy: Callable[..., Any],
    start_gateway: Callable[..., Any],
    start_collector: Callable[..., Any],
) -> Iterator[Any]:
    """Envoy with little patience and few connections."""
    backends = {"query-gateway": [start_gateway("1")], "collector-binance": [start_collector()]}
    limits = Limits(headers_seconds=0.5, request_seconds=1, connections=CONNECTIONS, headers=20)
    yield start_envoy(backends, limits=limits)
    for replicas in backends.values():
        replicas[0].stop()


def answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    connection.settimeout(20)
    found = b""
    while part := connection.recv(65_536):
        found += part
    return found


@pytest.mark.parametrize(
    "begun",
    [HEAD, HEAD + b'content-type: application/json\r\ncontent-length: 9\r\n\r\n{"ins'],
    ids=["headers", "body"],
)
def test_a_request_that_never_ends_is_ended(hurried: Any, begun: bytes) -> None:
    with socket.create_connection(tuple(hurried.address)) as connection:
        connection.sendall(begun)
        said = answer(connection)
    assert b" 408 " in said
    assert b"REQUEST_TIMEOUT" in said


def test_headers_beyond_their_number_are_refused(hurried: Any) -> None:
    many = {f"x-{number}": "1" for number in range(30)}
    assert hurried.rest.get("/v1/tickers", headers=many).status_code == 431


def test_connections_beyond_their_number_are_refused_until_one_ends(hurried: Any) -> None:
    hurried.rest.close()

    def open_now() -> int:
        return hurried.stat("http.public.downstream_cx_active")

    hurried.wait("the others' connections have ended", lambda: open_now() == 0)
    held = [socket.create_connection(tuple(hurried.address)) for _ in range(CONNECTIONS)]
    hurried.wait("they are held", lambda: open_now() == CONNECTIONS)
    with socket.create_connection(tuple(hurried.address)) as refused:
        assert answer(refused) == b""
    held.pop().close()
    hurried.wait("one has ended", lambda: open_now() < CONNECTIONS)
    with socket.create_connection(tuple(hurried.address)) as again:
        again.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert b" 200 " in answer(again)
    for connection in held:
        connection.close()
