"""The WebSocket of one connection, against a server of a few lines."""

import asyncio

import pytest

from coinmesh_sources.websocket import connect


async def test_a_connection_that_is_closed_during_the_handshake_is_an_error_of_the_connection():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/stream"
        with pytest.raises(ConnectionError, match=f"{url}: .* closed during the handshake"):
            await connect(url, lambda *_: None, None)
