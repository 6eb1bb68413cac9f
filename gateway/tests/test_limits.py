"""Limits on time and connections: who is slow or takes too many is cut off, nobody else."""

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coinmesh_gateway.settings import Limits

pytestmark = pytest.mark.component

CONNECTIONS, STREAMS = 3, 4
HEAD = b"POST /v1/collectors/binance/subscriptions HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture(scope="module")
def hurried(
    start_envoy: Callable[..., Any],
    start_gateway: Callable[..., Any],
    start_collector: Callable[..., Any],
) -> Iterator[Any]:
    """Envoy with little patience and few connections."""
    backends = {"query-gateway": [start_gateway("1")], "collector-binance": [start_collector()]}
    limits = Limits(
        headers_seconds=0.5,
        request_seconds=1,
        connections=CONNECTIONS,
        headers=20,
        streams_per_connection=STREAMS,
    )
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


# HTTP/2 (RFC 9113): what a client that keeps to no limit would send.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4
END_HEADERS, ACK, MAX_CONCURRENT_STREAMS, REFUSED_STREAM = 4, 1, 3, 7
#: POST http /a, authority a, as HPACK writes them without a table; the body never comes.
POST = bytes([0x83, 0x86, 0x04, 2]) + b"/a" + bytes([0x01, 1]) + b"a"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of what comes."""
    connection.settimeout(20)
    with connection.makefile("rb") as incoming:
        while head := incoming.read(9):
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            yield kind, flags, stream, incoming.read(int.from_bytes(head[:3]))


def test_streams_beyond_their_number_are_refused(hurried: Any) -> None:
    told: dict[int, int] = {}
    with socket.create_connection(tuple(hurried.address)) as connection:
        streams = [2 * number + 1 for number in range(STREAMS + 1)]
        opened = [frame(HEADERS, END_HEADERS, stream, POST) for stream in streams]
        connection.sendall(PREFACE + frame(SETTINGS) + b"".join(opened))
        for kind, flags, stream, payload in frames(connection):
            if kind == SETTINGS and not flags & ACK:
                told |= dict(struct.iter_unpack(">HI", payload))
            if kind == RST_STREAM:
                assert (stream, *struct.unpack(">I", payload)) == (streams[-1], REFUSED_STREAM)
                break
        else:
            raise AssertionError("closed without refusing a stream")
    assert told[MAX_CONCURRENT_STREAMS] == STREAMS


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
